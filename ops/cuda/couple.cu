#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/add.hpp>
#include <palimpsest/ops/kernels/couple.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

/// Rounds to multiples of 2^-fraction_bits, ties to even.
template <class T>
struct Grid {
  T offset;

  // Adding this power of two to a magnitude below it leaves no bits below 2^-fraction_bits.
  explicit Grid(int fraction_bits)
      : offset(static_cast<T>(std::ldexp(1.0, (sizeof(T) == 4 ? 23 : 52) - fraction_bits))) {}

  // Magnitudes from `offset` on have no such bits and stay as they are. The last + 0 turns -0 into 0.
  __device__ T round(T value) const {
    const T magnitude = value < 0 ? -value : value;
    const T nearest = (magnitude + offset) - offset;
    const T result = value < 0 ? -nearest : nearest;
    return (magnitude < offset ? result : value) + T{0};
  }
};

/// Reports values that are not below a limit; an infinite one guards nothing.
template <class T>
struct RangeGuard {
  const char* op;
  T limit;
  int detail;
  Fault* fault;

  RangeGuard(const char* name, T below, int fraction_bits)
      : op(name),
        limit(below),
        detail(sizeof(T) == 4 ? fraction_bits : -fraction_bits - 1),
        fault(std::isinf(below) ? nullptr : cuda::fault()) {}

  __device__ void check_on_grid(const Grid<T>& grid, T stream) const {
    if (fault != nullptr && grid.round(stream) != stream && stream == stream) {
      raise(fault, Fault::OffGrid, op, detail, 0, static_cast<double>(stream));
    }
  }
  __device__ void check(T value) const {
    if (fault != nullptr && !(fabs(value) < limit))
      raise(fault, Fault::Range, op, detail, 0, static_cast<double>(fabs(value)));
  }
};

template <int Width, class T>
__global__ void subtract_kernel(Index packs, const T* y, const T* f, T* x) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack = load<Width>(y + i * Width);
    const Pack<T, Width> branch = load<Width>(f + i * Width);
    for (int lane = 0; lane < Width; ++lane) pack[lane] -= branch[lane];
    store(x + i * Width, pack);
  }
}

template <int Width, class T>
__global__ void add_on_grid_kernel(Index packs, const T* x, const T* f, Grid<T> grid, RangeGuard<T> guard, T* y) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack = load<Width>(x + i * Width);
    const Pack<T, Width> branch = load<Width>(f + i * Width);
    for (int lane = 0; lane < Width; ++lane) {
      guard.check_on_grid(grid, pack[lane]);
      pack[lane] += grid.round(branch[lane]);
      guard.check(pack[lane]);
    }
    store(y + i * Width, pack);
  }
}

template <int Width, class T>
__global__ void subtract_on_grid_kernel(Index packs, const T* y, const T* f, Grid<T> grid, T* x) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack = load<Width>(y + i * Width);
    const Pack<T, Width> branch = load<Width>(f + i * Width);
    for (int lane = 0; lane < Width; ++lane) pack[lane] -= grid.round(branch[lane]);
    store(x + i * Width, pack);
  }
}

template <int Width, class T>
__global__ void round_kernel(Index packs, const T* x, Grid<T> grid, RangeGuard<T> guard, T* y) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack = load<Width>(x + i * Width);
    for (int lane = 0; lane < Width; ++lane) {
      pack[lane] = grid.round(pack[lane]);
      guard.check(pack[lane]);
    }
    store(y + i * Width, pack);
  }
}

}  // namespace

template <class T>
void couple_forward(std::int64_t count, const T* x, const T* f, T* y) {
  add(count, x, f, y);
}

template <class T>
void couple_inverse(std::int64_t count, const T* y, const T* f, T* x) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (subtract_kernel<width(), T>), packs, y, f, x);
  });
}

template <class T>
T couple_forward_on_grid(std::int64_t count, const T* x, const T* f, int fraction_bits, T limit, T* y) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (add_on_grid_kernel<width(), T>), packs, x, f,
                      Grid<T>(fraction_bits), RangeGuard<T>("couple", limit, fraction_bits), y);
  });
  return 0;
}

template <class T>
void couple_inverse_on_grid(std::int64_t count, const T* y, const T* f, int fraction_bits, T* x) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (subtract_on_grid_kernel<width(), T>), packs, y, f,
                      Grid<T>(fraction_bits), x);
  });
}

template <class T>
T round_to_grid(std::int64_t count, const T* x, int fraction_bits, T limit, T* y) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (round_kernel<width(), T>), packs, x,
                      Grid<T>(fraction_bits), RangeGuard<T>("round_to_grid", limit, fraction_bits), y);
  });
  return 0;
}

PALIMPSEST_COUPLE_KERNELS(float)
PALIMPSEST_COUPLE_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
