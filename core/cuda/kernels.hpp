#pragma once

// Tools of device code: packs of elements that move as one access, thread indices, and the choice of a pack's width.

#include <type_traits>

#include <palimpsest/core/cuda/device.hpp>
#include <palimpsest/core/index.hpp>

namespace palimpsest::cuda {

/// `Width` elements that are loaded and stored at once.
template <class T, int Width>
struct alignas(sizeof(T) * Width) Pack {
  T lanes[Width];

  __device__ T& operator[](int i) { return lanes[i]; }
  __device__ T operator[](int i) const { return lanes[i]; }
};

template <int Width, class T>
__device__ inline Pack<T, Width> load(const T* from) {
  return *reinterpret_cast<const Pack<T, Width>*>(from);
}

template <class T, int Width>
__device__ inline void store(T* to, const Pack<T, Width>& pack) {
  *reinterpret_cast<Pack<T, Width>*>(to) = pack;
}

/// Stores, or adds to what is there.
template <class T, int Width>
__device__ inline void store(T* to, Pack<T, Width> pack, bool accumulate) {
  if (accumulate) {
    const Pack<T, Width> before = load<Width>(to);
    for (int i = 0; i < Width; ++i) pack[i] += before[i];
  }
  store(to, pack);
}

/// For a gpu_geometry::Linear launch: the first item of this thread, and how far it is to the next.
__device__ inline Index first_item() { return Index{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline Index item_step() { return Index{gridDim.x} * blockDim.x; }

/// For a gpu_geometry::Rows launch: the group of this thread (it may be beyond the last), its first row, and how far it
/// is to the next.
__device__ inline Index row_group() { return Index{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline Index first_row() { return Index{blockIdx.y} * blockDim.y + threadIdx.y; }
__device__ inline Index row_step() { return Index{gridDim.y} * blockDim.y; }

/// Calls body(std::integral_constant<int, Width>) with the pack width for rows of `count` elements of T.
template <class T, class Body>
void with_width(Index count, const Body& body) {
  constexpr int widest = 16 / static_cast<int>(sizeof(T));
  if (gpu_geometry::vector_width(count, sizeof(T)) == widest) {
    body(std::integral_constant<int, widest>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

}  // namespace palimpsest::cuda
