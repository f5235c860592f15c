// Pooling. Gradients are gathered: each element of dx looks for the windows it is in, so that nothing is added
// atomically and overlapping windows are summed in a fixed order.

#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/pool.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

/// The place of a thread's row: image n, row i, column j of a height x width image.
struct Pixel {
  Index n, i, j;

  __device__ Pixel(Index row, Index height, Index width)
      : n(row / width / height), i(row / width % height), j(row % width) {}
};

/// [begin, end).
struct Span {
  Index begin, end;
};

/// The pixels of a window inside of the image, along one axis.
__device__ inline Span window(Index out, const PoolShape& s, Index pad, Index extent) {
  const Index first = out * s.stride - pad;
  return {larger(first, 0), smaller(first + s.kernel, extent)};
}

/// The windows that a pixel is in, along one axis.
__device__ inline Span windows_of(Index in, const PoolShape& s, Index pad, Index out_extent) {
  const Index first = in + pad - s.kernel + 1;  // the earliest start of a window, times the stride
  const Index begin = first <= 0 ? 0 : ceil_div(first, s.stride);
  return {begin, smaller((in + pad) / s.stride + 1, out_extent)};
}

template <int Width, class T>
__global__ void sum_kernel(PoolShape s, T share, Index rows, Index groups, const T* x, T* y, bool accumulate) {
  const Index group = row_group();
  if (group >= groups) return;
  for (Index row = first_row(); row < rows; row += row_step()) {
    const Pixel out(row, s.out_height, s.out_width);
    Pack<T, Width> sum = {};
    for (Index i = out.i * s.stride; i < out.i * s.stride + s.kernel; ++i) {
      for (Index j = out.j * s.stride; j < out.j * s.stride + s.kernel; ++j) {
        const auto pack = load<Width>(x + (((out.n * s.height + i) * s.width + j) * groups + group) * Width);
        for (int lane = 0; lane < Width; ++lane) sum[lane] += pack[lane];
      }
    }
    for (int lane = 0; lane < Width; ++lane) sum[lane] *= share;
    store(y + (row * groups + group) * Width, sum, accumulate);
  }
}

template <int Width, class T>
__global__ void spread_kernel(PoolShape s, T share, Index rows, Index groups, const T* dy, T* dx, bool accumulate) {
  const Index group = row_group();
  if (group >= groups) return;
  for (Index row = first_row(); row < rows; row += row_step()) {
    const Pixel in(row, s.height, s.width);
    const Span vertical = windows_of(in.i, s, s.pad_top, s.out_height);
    const Span horizontal = windows_of(in.j, s, s.pad_left, s.out_width);
    Pack<T, Width> sum = {};
    for (Index i = vertical.begin; i < vertical.end; ++i) {
      for (Index j = horizontal.begin; j < horizontal.end; ++j) {
        const auto pack = load<Width>(dy + (((in.n * s.out_height + i) * s.out_width + j) * groups + group) * Width);
        for (int lane = 0; lane < Width; ++lane) sum[lane] += pack[lane] * share;
      }
    }
    store(dx + (row * groups + group) * Width, sum, accumulate);
  }
}

template <int Width, class T>
__global__ void global_forward_kernel(Index n, Index pixels, Index groups, const T* x, T* y) {
  const Index group = row_group();
  if (group >= groups) return;
  for (Index image = first_row(); image < n; image += row_step()) {
    double sums[Width] = {};
    for (Index p = 0; p < pixels; ++p) {
      const auto pack = load<Width>(x + ((image * pixels + p) * groups + group) * Width);
      for (int lane = 0; lane < Width; ++lane) sums[lane] += static_cast<double>(pack[lane]);
    }
    Pack<T, Width> mean;
    for (int lane = 0; lane < Width; ++lane) mean[lane] = static_cast<T>(sums[lane] / static_cast<double>(pixels));
    store(y + (image * groups + group) * Width, mean);
  }
}

template <int Width, class T>
__global__ void global_backward_kernel(Index rows, Index pixels, Index groups, const T* dy, T* dx, bool accumulate) {
  const Index group = row_group();
  if (group >= groups) return;
  const T share = T{1} / static_cast<T>(pixels);
  for (Index row = first_row(); row < rows; row += row_step()) {
    Pack<T, Width> pack = load<Width>(dy + (row / pixels * groups + group) * Width);
    for (int lane = 0; lane < Width; ++lane) pack[lane] *= share;
    store(dx + (row * groups + group) * Width, pack, accumulate);
  }
}

/// The place of the first largest element of a window, a NaN counting as the largest.
template <class T>
__device__ Index largest_at(const PoolShape& s, Index n, Index i, Index j, Index channel, const T* x) {
  const Span vertical = window(i, s, s.pad_top, s.height);
  const Span horizontal = window(j, s, s.pad_left, s.width);
  Index best = ((n * s.height + vertical.begin) * s.width + horizontal.begin) * s.channels + channel;
  for (Index row = vertical.begin; row < vertical.end; ++row) {
    for (Index column = horizontal.begin; column < horizontal.end; ++column) {
      const Index at = ((n * s.height + row) * s.width + column) * s.channels + channel;
      const bool is_first_nan = x[at] != x[at] && x[best] == x[best];
      if (x[at] > x[best] || is_first_nan) best = at;
    }
  }
  return best;
}

template <class T>
__global__ void max_forward_kernel(PoolShape s, Index rows, const T* x, T* y) {
  const Index channel = row_group();
  if (channel >= s.channels) return;
  for (Index row = first_row(); row < rows; row += row_step()) {
    const Pixel out(row, s.out_height, s.out_width);
    y[row * s.channels + channel] = x[largest_at(s, out.n, out.i, out.j, channel, x)];
  }
}

template <class T>
__global__ void max_backward_kernel(PoolShape s, Index rows, const T* x, const T* dy, T* dx, bool accumulate) {
  const Index channel = row_group();
  if (channel >= s.channels) return;
  for (Index row = first_row(); row < rows; row += row_step()) {
    const Pixel in(row, s.height, s.width);
    const Span vertical = windows_of(in.i, s, s.pad_top, s.out_height);
    const Span horizontal = windows_of(in.j, s, s.pad_left, s.out_width);
    const Index at = row * s.channels + channel;
    T sum = 0;
    for (Index i = vertical.begin; i < vertical.end; ++i) {
      for (Index j = horizontal.begin; j < horizontal.end; ++j) {
        if (largest_at(s, in.n, i, j, channel, x) != at) continue;
        sum += dy[((in.n * s.out_height + i) * s.out_width + j) * s.channels + channel];
      }
    }
    dx[at] = accumulate ? dx[at] + sum : sum;
  }
}

Index output_rows(const PoolShape& s) { return s.n * s.out_height * s.out_width; }
Index input_rows(const PoolShape& s) { return s.n * s.height * s.width; }

}  // namespace

template <class T>
void sum_windows(const PoolShape& shape, T share, const T* x, T* y, bool accumulate) {
  with_width<T>(shape.channels, [&](auto width) {
    const Index groups = shape.channels / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(output_rows(shape), groups)), (sum_kernel<width(), T>), shape, share,
                      output_rows(shape), groups, x, y, accumulate);
  });
}

template <class T>
void spread_windows(const PoolShape& shape, T share, const T* y, T* x, bool accumulate) {
  with_width<T>(shape.channels, [&](auto width) {
    const Index groups = shape.channels / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(input_rows(shape), groups)), (spread_kernel<width(), T>), shape,
                      share, input_rows(shape), groups, y, x, accumulate);
  });
}

template <class T>
void global_avg_pool_forward(std::int64_t n, std::int64_t pixels, std::int64_t channels, const T* x, T* y) {
  with_width<T>(channels, [&](auto width) {
    const Index groups = channels / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(n, groups)), (global_forward_kernel<width(), T>), n, pixels, groups,
                      x, y);
  });
}

template <class T>
void global_avg_pool_backward(std::int64_t n, std::int64_t pixels, std::int64_t channels, const T* dy, T* dx,
                              bool accumulate) {
  with_width<T>(channels, [&](auto width) {
    const Index groups = channels / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(n * pixels, groups)), (global_backward_kernel<width(), T>),
                      n * pixels, pixels, groups, dy, dx, accumulate);
  });
}

template <class T>
void max_pool2d_forward(const PoolShape& shape, const T* x, T* y) {
  PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(output_rows(shape), shape.channels)), max_forward_kernel<T>, shape,
                    output_rows(shape), x, y);
}

template <class T>
void max_pool2d_backward(const PoolShape& shape, const T* x, const T* dy, T* dx, bool accumulate) {
  PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(input_rows(shape), shape.channels)), max_backward_kernel<T>, shape,
                    input_rows(shape), x, dy, dx, accumulate);
}

PALIMPSEST_POOL_KERNELS(float)
PALIMPSEST_POOL_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
