#include <cstring>

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

// The bits of a magnitude: ordered as the magnitudes are, infinity above them, NaN above infinity.
__device__ inline unsigned magnitude_bits(float value) {
  unsigned bits = 0;
  memcpy(&bits, &value, sizeof bits);
  return bits & 0x7fffffffU;
}
__device__ inline unsigned long long magnitude_bits(double value) {
  unsigned long long bits = 0;
  memcpy(&bits, &value, sizeof bits);
  return bits & 0x7fffffffffffffffULL;
}

/// A coupling's numbers, looked at while they are made.
template <class T>
struct Watcher {
  using Magnitude = decltype(magnitude_bits(T{}));

  GridWatch<T> watch;
  const char* op;
  int detail;
  Fault* fault;

  Watcher(const char* name, const GridWatch<T>& what, int fraction_bits)
      : watch(what), op(name), detail(sizeof(T) == 4 ? fraction_bits : -fraction_bits - 1), fault(cuda::fault()) {}

  __device__ void check_on_grid(const Grid<T>& grid, T stream) const {
    if (watch.checks && grid.round(stream) != stream && stream == stream) {
      raise(fault, Fault::OffGrid, op, detail, 0, static_cast<double>(stream));
    }
  }
  __device__ void check(T value, Magnitude& largest) const {
    const Magnitude here = magnitude_bits(value);
    largest = here > largest ? here : largest;
    if (watch.mark == nullptr || fabs(value) < watch.limit) return;
    *watch.mark = 1;
    if (watch.mark_is_fault) raise(fault, Fault::Range, op, detail, 0, static_cast<double>(fabs(value)));
  }
  /// The largest of all threads does not depend on their order. Most find that it has been told already.
  __device__ void tell(Magnitude largest) const {
    if (watch.largest == nullptr) return;
    auto* const told = reinterpret_cast<Magnitude*>(watch.largest);
    if (largest > *static_cast<volatile Magnitude*>(told)) atomicMax(told, largest);
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
__global__ void add_on_grid_kernel(Index packs, const T* x, const T* f, Grid<T> grid, Watcher<T> watcher, T* y) {
  typename Watcher<T>::Magnitude largest = 0;
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack = load<Width>(x + i * Width);
    const Pack<T, Width> branch = load<Width>(f + i * Width);
    for (int lane = 0; lane < Width; ++lane) {
      watcher.check_on_grid(grid, pack[lane]);
      pack[lane] += grid.round(branch[lane]);
      watcher.check(pack[lane], largest);
    }
    store(y + i * Width, pack);
  }
  watcher.tell(largest);
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
__global__ void round_kernel(Index packs, const T* x, Grid<T> grid, T* y) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack = load<Width>(x + i * Width);
    for (int lane = 0; lane < Width; ++lane) pack[lane] = grid.round(pack[lane]);
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
T couple_forward_on_grid(std::int64_t count, const T* x, const T* f, int fraction_bits, const GridWatch<T>& watch,
                         T* y) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (add_on_grid_kernel<width(), T>), packs, x, f,
                      Grid<T>(fraction_bits), Watcher<T>("couple", watch, fraction_bits), y);
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
void round_to_grid(std::int64_t count, const T* x, int fraction_bits, T* y) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (round_kernel<width(), T>), packs, x,
                      Grid<T>(fraction_bits), y);
  });
}

PALIMPSEST_COUPLE_KERNELS(float)
PALIMPSEST_COUPLE_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
