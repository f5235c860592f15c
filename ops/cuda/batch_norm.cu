// Batch normalisation: two passes forward in a first run (statistics, then normalise), one in a replay, two backward.

#include <palimpsest/ops/cuda/batch_norm.hpp>
#include <palimpsest/ops/cuda/reduce.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

/// Deviations from the first row and their squares: exactly 0 for a constant channel.
template <class T>
struct Deviations {
  const T* x;

  __device__ T of_channel(Index channel) const { return x[channel]; }
  __device__ void add(T origin, Index at, T (&sums)[2]) const {
    const T deviation = x[at] - origin;
    sums[0] += deviation;
    sums[1] = fma(deviation, deviation, sums[1]);
  }
};

template <class T>
struct MeanAndVariance {
  Index rows;
  const T* x;
  T* mean;
  T* variance;

  __device__ void finish(Index channel, const double (&sums)[2]) const {
    const double deviation = sums[0] / static_cast<double>(rows);
    const double square = sums[1] / static_cast<double>(rows) - deviation * deviation;
    mean[channel] = static_cast<T>(static_cast<double>(x[channel]) + deviation);
    variance[channel] = static_cast<T>(square < 0 ? 0 : square);
  }
};

template <class T>
struct Gradients {
  const T* x;
  const T* dy;
  Normalization<T> n;

  __device__ Channel<T> of_channel(Index channel) const { return gpu::channel_of(n, channel); }
  __device__ void add(const Channel<T>& channel, Index at, T (&sums)[2]) const {
    const T deviation = x[at] - channel.mean;
    const T gradient = masked(channel, n.relu, deviation, dy[at]);
    sums[0] += gradient;
    sums[1] = fma(gradient, deviation, sums[1]);
  }
};

template <class T>
__global__ void rstd_kernel(Index channels, double epsilon, T* variance) {
  for (Index c = first_item(); c < channels; c += item_step()) {
    variance[c] = static_cast<T>(1.0 / sqrt(static_cast<double>(variance[c]) + epsilon));
  }
}

template <class T>
__global__ void update_running_kernel(Index channels, double momentum, double factor, const T* batch, T* running,
                                      const Fault* fault) {
  if (fault->kind != Fault::None) return;
  for (Index c = first_item(); c < channels; c += item_step()) {
    const double value = static_cast<double>(batch[c]) * factor;
    running[c] = static_cast<T>((1.0 - momentum) * static_cast<double>(running[c]) + momentum * value);
  }
}

template <int Width, class T>
__global__ void forward_kernel(Index rows, Index groups, const T* x, Normalization<T> n, T* y) {
  const Index group = row_group();
  if (group >= groups) return;
  Channel<T> channels[Width];
  for (int lane = 0; lane < Width; ++lane) channels[lane] = channel_of(n, group * Width + lane);
  for (Index row = first_row(); row < rows; row += row_step()) {
    const Index at = (row * groups + group) * Width;
    Pack<T, Width> pack = load<Width>(x + at);
    for (int lane = 0; lane < Width; ++lane) {
      pack[lane] = normalised(channels[lane], n.relu, pack[lane] - channels[lane].mean);
    }
    store(y + at, pack);
  }
}

/// dx = scale * dy' - offset - slope * (x - mean), where offset and slope are 0 if mean and rstd are constants.
template <int Width, class T>
__global__ void input_gradient_kernel(Index rows, Index groups, const T* x, const T* dy, Normalization<T> n,
                                      const T* sum_dy, const T* sum_dy_xhat, T* dx, bool accumulate) {
  const Index group = row_group();
  if (group >= groups) return;
  Channel<T> channels[Width];
  Correction<T> corrections[Width];
  for (int lane = 0; lane < Width; ++lane) {
    const Index c = group * Width + lane;
    channels[lane] = channel_of(n, c);
    if (sum_dy == nullptr) continue;
    corrections[lane] = correction_of(channels[lane], n.rstd[c], rows, sum_dy[c], sum_dy_xhat[c]);
  }
  for (Index row = first_row(); row < rows; row += row_step()) {
    const Index at = (row * groups + group) * Width;
    Pack<T, Width> pack = load<Width>(dy + at);
    Pack<T, Width> values = {};
    if (x != nullptr) values = load<Width>(x + at);
    for (int lane = 0; lane < Width; ++lane) {
      const T deviation = values[lane] - channels[lane].mean;
      const T gradient = masked(channels[lane], n.relu, deviation, pack[lane]);
      const Correction<T>& correction = corrections[lane];
      pack[lane] = fma(channels[lane].scale, gradient, fma(deviation, -correction.slope, -correction.offset));
    }
    store(dx + at, pack, accumulate);
  }
}

template <class T>
void launch_input_gradient(Index rows, Index channels, const T* x, const T* dy, const Normalization<T>& n,
                           const T* sum_dy, const T* sum_dy_xhat, T* dx, bool accumulate) {
  with_width<T>(channels, [&](auto width) {
    const Index groups = channels / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, groups)), (input_gradient_kernel<width(), T>), rows, groups, x,
                      dy, n, sum_dy, sum_dy_xhat, dx, accumulate);
  });
}

}  // namespace

template <class T>
void batch_norm_statistics(std::int64_t rows, std::int64_t channels, const T* x, T* mean, T* variance,
                           double* workspace) {
  sum_over_rows<2, T>(rows, channels, Deviations<T>{x}, MeanAndVariance<T>{rows, x, mean, variance}, workspace);
}

template <class T>
void batch_norm_rstd(std::int64_t channels, double epsilon, T* variance) {
  PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(channels)), rstd_kernel<T>, channels, epsilon, variance);
}

template <class T>
void batch_norm_update_running(std::int64_t channels, double momentum, double factor, const T* batch, T* running) {
  PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(channels)), update_running_kernel<T>, channels, momentum, factor,
                    batch, running, fault());
}

template <class T>
void batch_norm_forward(std::int64_t rows, std::int64_t channels, const T* x, const Normalization<T>& n, T* y) {
  with_width<T>(channels, [&](auto width) {
    const Index groups = channels / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, groups)), (forward_kernel<width(), T>), rows, groups, x, n, y);
  });
}

template <class T>
void batch_norm_reduce_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                                const Normalization<T>& n, T* sum_dy, T* sum_dy_xhat, double* workspace) {
  sum_over_rows<2, T>(rows, channels, Gradients<T>{x, dy, n}, GradientSums<T>{n.rstd, sum_dy, sum_dy_xhat}, workspace);
}

template <class T>
void batch_norm_input_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                               const Normalization<T>& n, const T* sum_dy, const T* sum_dy_xhat, T* dx,
                               bool accumulate) {
  launch_input_gradient(rows, channels, x, dy, n, sum_dy, sum_dy_xhat, dx, accumulate);
}

template <class T>
void batch_norm_affine_input_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                                      const Normalization<T>& n, T* dx, bool accumulate) {
  const T* const none = nullptr;
  launch_input_gradient(rows, channels, n.relu ? x : none, dy, n, none, none, dx, accumulate);
}

PALIMPSEST_BATCH_NORM_KERNELS(float)
PALIMPSEST_BATCH_NORM_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
