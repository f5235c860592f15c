#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/relu.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

template <int Width, class T>
__global__ void forward_kernel(Index packs, const T* x, T* y) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack = load<Width>(x + i * Width);
    for (int lane = 0; lane < Width; ++lane) pack[lane] = pack[lane] <= 0 ? T{0} : pack[lane];
    store(y + i * Width, pack);
  }
}

template <int Width, class T>
__global__ void backward_kernel(Index packs, const T* y, const T* dy, T* dx, bool accumulate) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    const Pack<T, Width> result = load<Width>(y + i * Width);
    Pack<T, Width> gradient = load<Width>(dy + i * Width);
    for (int lane = 0; lane < Width; ++lane) gradient[lane] = result[lane] > 0 ? gradient[lane] : T{0};
    store(dx + i * Width, gradient, accumulate);
  }
}

}  // namespace

template <class T>
void relu_forward(std::int64_t count, const T* x, T* y) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (forward_kernel<width(), T>), packs, x, y);
  });
}

template <class T>
void relu_backward(std::int64_t count, const T* y, const T* dy, T* dx, bool accumulate) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (backward_kernel<width(), T>), packs, y, dy, dx,
                      accumulate);
  });
}

template void relu_forward(std::int64_t, const float*, float*);
template void relu_forward(std::int64_t, const double*, double*);
template void relu_backward(std::int64_t, const float*, const float*, float*, bool);
template void relu_backward(std::int64_t, const double*, const double*, double*, bool);

}  // namespace palimpsest::kernels::gpu
