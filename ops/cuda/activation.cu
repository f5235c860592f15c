#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/activation.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

template <int Width, class Function, class T>
__global__ void forward_kernel(Function function, Index packs, const T* x, T* y) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> pack = load<Width>(x + i * Width);
    for (int lane = 0; lane < Width; ++lane) pack[lane] = function.value(pack.lanes[lane]);
    store(y + i * Width, pack);
  }
}

template <int Width, class Function, class T>
__global__ void backward_kernel(Function function, Index packs, const T* kept, const T* dy, T* dx, bool accumulate) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    const Pack<T, Width> own = load<Width>(kept + i * Width);
    Pack<T, Width> gradient = load<Width>(dy + i * Width);
    for (int lane = 0; lane < Width; ++lane) gradient[lane] = function.gradient(own[lane], gradient.lanes[lane]);
    store(dx + i * Width, gradient, accumulate);
  }
}

}  // namespace

template <class Function, class T>
void activate(Function function, std::int64_t count, const T* x, T* y) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (forward_kernel<width(), Function, T>), function, packs, x,
                      y);
  });
}

template <class Function, class T>
void activate_backward(Function function, std::int64_t count, const T* kept, const T* dy, T* dx, bool accumulate) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (backward_kernel<width(), Function, T>), function, packs,
                      kept, dy, dx, accumulate);
  });
}

PALIMPSEST_ACTIVATIONS(PALIMPSEST_ACTIVATION_KERNELS)

}  // namespace palimpsest::kernels::gpu
