#include <palimpsest/ops/cuda/reduce.hpp>
#include <palimpsest/ops/kernels/bias.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

template <int Width, class T>
__global__ void add_bias_kernel(Index rows, Index groups, const T* bias, T* y) {
  const Index group = row_group();
  if (group >= groups) return;
  const Pack<T, Width> own = load<Width>(bias + group * Width);
  for (Index row = first_row(); row < rows; row += row_step()) store(y + (row * groups + group) * Width, own, true);
}

template <class T>
struct Elements {
  const T* x;

  __device__ int of_channel(Index) const { return 0; }
  __device__ void add(int, Index at, T (&sums)[1]) const { sums[0] += x[at]; }
};

template <class T>
struct StoreSum {
  T* sum;
  bool accumulate;

  __device__ void finish(Index channel, const double (&sums)[1]) const {
    const T value = static_cast<T>(sums[0]);
    sum[channel] = accumulate ? sum[channel] + value : value;
  }
};

}  // namespace

template <class T>
void add_bias(std::int64_t rows, std::int64_t channels, const T* bias, T* y) {
  with_width<T>(channels, [&](auto width) {
    const Index groups = channels / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, groups)), (add_bias_kernel<width(), T>), rows, groups, bias, y);
  });
}

template <class T>
void channel_sum(std::int64_t rows, std::int64_t channels, const T* x, T* sum, bool accumulate, double* workspace) {
  sum_over_rows<1, T>(rows, channels, Elements<T>{x}, StoreSum<T>{sum, accumulate}, workspace);
}

PALIMPSEST_BIAS_KERNELS(float)
PALIMPSEST_BIAS_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
