#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/add.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

template <int Width, class T>
__global__ void add_kernel(Index packs, const T* a, const T* b, T* out) {
  for (Index i = first_item(); i < packs; i += item_step()) {
    Pack<T, Width> sum = load<Width>(a + i * Width);
    const Pack<T, Width> other = load<Width>(b + i * Width);
    for (int lane = 0; lane < Width; ++lane) sum[lane] += other[lane];
    store(out + i * Width, sum);
  }
}

}  // namespace

template <class T>
void add(std::int64_t count, const T* a, const T* b, T* out) {
  with_width<T>(count, [&](auto width) {
    const Index packs = count / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(packs)), (add_kernel<width(), T>), packs, a, b, out);
  });
}

template void add(std::int64_t, const float*, const float*, float*);
template void add(std::int64_t, const double*, const double*, double*);

}  // namespace palimpsest::kernels::gpu
