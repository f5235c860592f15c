#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/core/elementwise.hpp>

namespace palimpsest::cuda {
namespace {

template <int Width, class T>
__global__ void accumulate_kernel(Index packs, T* to, const T* from) {
  for (Index i = first_item(); i < packs; i += item_step()) store(to + i * Width, load<Width>(from + i * Width), true);
}

template <int Width, class T>
__global__ void fill_kernel(Index packs, T* to, T value) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack;
    for (int lane = 0; lane < Width; ++lane) pack[lane] = value;
    store(to + i * Width, pack);
  }
}

}  // namespace

template <class T>
void accumulate(T* to, const T* from, std::int64_t count) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (accumulate_kernel<width(), T>), packs, to, from);
  });
}

template <class T>
void fill(T* to, T value, std::int64_t count) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (fill_kernel<width(), T>), packs, to, value);
  });
}

template void accumulate(float*, const float*, std::int64_t);
template void accumulate(double*, const double*, std::int64_t);
template void fill(float*, float, std::int64_t);
template void fill(double*, double, std::int64_t);

}  // namespace palimpsest::cuda
