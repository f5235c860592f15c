// Joining and parting channels. A thread keeps one pack of the whole's channels, so it looks for the part that holds it
// once; neighbours in a block write (or read) neighbours of the whole.

#include <algorithm>
#include <type_traits>

#include "core/cuda_kernels.hpp"
#include "ops/concat_kernels.hpp"

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

/// What one launch joins or parts. More tensors take several launches.
constexpr int max_parts = 128;

/// Extents are counted in packs.
template <class Pointer>
struct Parts {
  int count = 0;
  Index channels[max_parts];
  Index first[max_parts];  // where the part begins in the whole
  Pointer data[max_parts];
  bool accumulate[max_parts];

  __device__ int holding(Index group) const {
    int part = 0;
    while (part + 1 < count && first[part + 1] <= group) ++part;
    return part;
  }
};

template <int Width, class T>
__global__ void gather_kernel(Index rows, Index begin, Index end, Index whole, Parts<const T*> parts, T* y) {
  const Index group = begin + row_group();
  if (group >= end) return;
  const int part = parts.holding(group);
  const Index channels = parts.channels[part];
  const T* const from = parts.data[part] + (group - parts.first[part]) * Width;
  for (Index row = first_row(); row < rows; row += row_step()) {
    store(y + (row * whole + group) * Width, load<Width>(from + row * channels * Width));
  }
}

template <int Width, class T>
__global__ void scatter_kernel(Index rows, Index begin, Index end, Index whole, Parts<T*> parts, const T* dy) {
  const Index group = begin + row_group();
  if (group >= end) return;
  const int part = parts.holding(group);
  if (parts.data[part] == nullptr) return;
  const Index channels = parts.channels[part];
  T* const to = parts.data[part] + (group - parts.first[part]) * Width;
  for (Index row = first_row(); row < rows; row += row_step()) {
    store(to + row * channels * Width, load<Width>(dy + (row * whole + group) * Width), parts.accumulate[part]);
  }
}

/// Whether a part would be written by two threads of one launch: a tensor that is joined with itself.
template <class Pointer>
bool is_written_already(const Parts<Pointer>& parts, Pointer data) {
  if (std::is_const_v<std::remove_pointer_t<Pointer>> || data == nullptr) return false;
  return std::find(parts.data, parts.data + parts.count, data) != parts.data + parts.count;
}

/// Calls launch(width, parts, begin, end) for runs of at most max_parts tensors, none of which is written twice;
/// [begin, end) are their channels in the whole, in packs. Tensors without channels are left out.
template <class T, class Pointer, class Launch>
void for_each_run(Index count, const Pointer* pointers, const Index* channels, const bool* accumulate,
                  const Launch& launch) {
  Index divisible = 16 / static_cast<Index>(sizeof(T));
  for (Index i = 0; i < count; ++i) {
    if (channels[i] % (16 / static_cast<Index>(sizeof(T))) != 0) divisible = 1;
  }
  with_width<T>(divisible, [&](auto width) {
    Index offset = 0;
    for (Index next = 0; next < count;) {
      Parts<Pointer> parts = {};
      const Index begin = offset;
      for (; next < count && parts.count < max_parts; ++next) {
        if (channels[next] == 0) continue;
        if (is_written_already(parts, pointers[next])) break;
        parts.channels[parts.count] = channels[next] / width();
        parts.first[parts.count] = offset;
        parts.data[parts.count] = pointers[next];
        parts.accumulate[parts.count] = accumulate != nullptr && accumulate[next];
        offset += channels[next] / width();
        ++parts.count;
      }
      if (parts.count > 0) launch(width, parts, begin, offset);
    }
  });
}

Index sum_of(Index count, const Index* channels) {
  Index sum = 0;
  for (Index i = 0; i < count; ++i) sum += channels[i];
  return sum;
}

}  // namespace

template <class T>
void concat_gather(std::int64_t rows, std::int64_t count, const T* const* inputs, const std::int64_t* channels, T* y) {
  const Index all = sum_of(count, channels);
  for_each_run<T>(count, inputs, channels, nullptr,
                  [&](auto width, const Parts<const T*>& parts, Index begin, Index end) {
                    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, end - begin)), (gather_kernel<width(), T>),
                                      rows, begin, end, all / width(), parts, y);
                  });
}

template <class T>
void concat_scatter(std::int64_t rows, std::int64_t count, const T* dy, T* const* outputs, const std::int64_t* channels,
                    const bool* accumulate) {
  const Index all = sum_of(count, channels);
  for_each_run<T>(count, outputs, channels, accumulate,
                  [&](auto width, const Parts<T*>& parts, Index begin, Index end) {
                    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, end - begin)), (scatter_kernel<width(), T>),
                                      rows, begin, end, all / width(), parts, dy);
                  });
}

#define INSTANTIATE(T)                                                                               \
  template void concat_gather(std::int64_t, std::int64_t, const T* const*, const std::int64_t*, T*); \
  template void concat_scatter(std::int64_t, std::int64_t, const T*, T* const*, const std::int64_t*, const bool*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::gpu
