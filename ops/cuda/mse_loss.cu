#include <palimpsest/ops/cuda/reduce.hpp>
#include <palimpsest/ops/kernels/mse_loss.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

template <class T>
__global__ void forward_kernel(Index count, const T* x, const T* target, double* partial) {
  const Index begin = Index{blockIdx.x} * listed_block_elements;
  const Index end = smaller(begin + listed_block_elements, count);
  double sum = 0;
  for (Index i = begin + threadIdx.x; i < end; i += blockDim.x) {
    const double error = static_cast<double>(x[i]) - static_cast<double>(target[i]);
    sum += error * error;
  }
  const double total = add_over_block(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

template <int Width, class T>
__global__ void backward_kernel(Index packs, double share, const T* x, const T* target, const T* upstream, T* dx,
                                bool accumulate) {
  const T factor = static_cast<T>(2 * static_cast<double>(*upstream) / share);
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> gradient = load<Width>(x + i * Width);
    const Pack<T, Width> other = load<Width>(target + i * Width);
    for (int lane = 0; lane < Width; ++lane) gradient[lane] = factor * (gradient[lane] - other[lane]);
    store(dx + i * Width, gradient, accumulate);
  }
}

}  // namespace

template <class T>
void mse_forward(std::int64_t count, const T* x, const T* target, double* partial, T* loss) {
  const Index parts = reduction_blocks(count);
  const Geometry launch = {dim3(static_cast<unsigned>(parts)), dim3(gpu_geometry::block_threads)};
  PALIMPSEST_LAUNCH(launch, forward_kernel<T>, count, x, target, partial);
  add_partial_sums(parts, partial, static_cast<double>(count), loss);
}

template <class T>
void mse_backward(std::int64_t count, const T* x, const T* target, const T* upstream, T* dx, bool accumulate) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (backward_kernel<width(), T>), packs,
                      static_cast<double>(count), x, target, upstream, dx, accumulate);
  });
}

PALIMPSEST_MSE_KERNELS(float)
PALIMPSEST_MSE_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
