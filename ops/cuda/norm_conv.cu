// A chunk of rows at a time: a kernel normalises the parts where they are, into y or into the workspace, and that is
// convolved: by cuBLAS alone where the kernel is 1x1, else by the convolution of conv2d_cuda.cu. In the gradient pass
// the convolution's comes first, and one kernel then does all that is not a product.

#include <palimpsest/ops/cuda/batch_norm.hpp>
#include <palimpsest/ops/cuda/parts.hpp>
#include <palimpsest/ops/cuda/reduce.hpp>
#include <palimpsest/ops/cuda/workspace.hpp>
#include <palimpsest/ops/gemm.hpp>
#include <palimpsest/ops/kernels/conv2d_cuda_partition.hpp>
#include <palimpsest/ops/kernels/norm_conv.hpp>
#include <palimpsest/ops/kernels/norm_conv_cuda_partition.hpp>

namespace palimpsest::kernels::gpu {
namespace {

namespace plan = gpu_geometry;
using namespace palimpsest::cuda;

template <class T>
using NormParts = Parts<NormPart<T>>;

/// The rows [first, first + rows) of all.
struct Chunk {
  Index first;
  Index rows;
};

/// y[row] = max(0, normalised x[chunk.first + row]) for the channels that the parts have. [begin, end) and whole are in
/// packs. A thread keeps its channels and walks over rows.
template <int Width, class T>
__global__ void normalise_kernel(Chunk chunk, Index begin, Index end, Index whole,
                                 const __grid_constant__ NormParts<T> parts, Normalization<T> n, T* y) {
  const Index group = begin + row_group();
  if (group >= end) return;
  const int index = parts.holding(group);
  const NormPart<T>& part = parts.parts[index];
  const T* const x = part.x + (chunk.first * part.channels + group - parts.first[index]) * Width;
  Channel<T> channels[Width];
  for (int lane = 0; lane < Width; ++lane) channels[lane] = channel_of(n, group * Width + lane);
  for (Index row = first_row(); row < chunk.rows; row += row_step()) {
    Pack<T, Width> pack = load<Width>(x + row * part.channels * Width);
    for (int lane = 0; lane < Width; ++lane) {
      pack[lane] = normalised(channels[lane], n.relu, pack[lane] - channels[lane].mean);
    }
    store(y + (row * whole + group) * Width, pack);
  }
}

/// Rows that a thread of gradient_kernel loads before it stores any: the compiler cannot tell that they do not overlap.
constexpr int rows_at_once = 4;

/// Given dy of a chunk: gradient (+)= scale * dy', y again where it is not null, and the sums of dy' and of dy' times
/// the deviation over each part of the rows. A block takes one part of the rows for 32 channels, as sum_parts does.
/// dy, y: chunk.rows x whole; partial: 2 x all_parts x whole, of which this chunk's begin at first_part.
template <class T>
__global__ void gradient_kernel(Chunk chunk, Index begin, Index end, Index whole,
                                const __grid_constant__ NormParts<T> parts, Normalization<T> n, const T* dy, T* y,
                                Index rows_per_part, Index first_part, Index all_parts, double* partial) {
  const Index channel = begin + row_group();
  double sums[2] = {};
  if (channel < end) {
    const int index = parts.holding(channel);
    const NormPart<T>& part = parts.parts[index];
    const Index offset = chunk.first * part.channels + channel - parts.first[index];
    const T* const x = part.x + offset;
    T* const gradient = part.gradient == nullptr ? nullptr : part.gradient + offset;
    const bool add = gradient != nullptr && part.accumulate;
    const Channel<T> normal = channel_of(n, channel);
    T own[2] = {};
    const Index last = smaller(chunk.rows, (blockIdx.y + 1) * rows_per_part);
    for (Index row = blockIdx.y * rows_per_part + threadIdx.y; row < last; row += rows_at_once * blockDim.y) {
      T values[rows_at_once];
      T gradients[rows_at_once];
      T before[rows_at_once];
      for (int i = 0; i < rows_at_once; ++i) {
        const Index at = row + i * blockDim.y;
        if (at >= last) break;
        values[i] = x[at * part.channels];
        gradients[i] = dy[at * whole + channel];
        before[i] = add ? gradient[at * part.channels] : T{0};
      }
      for (int i = 0; i < rows_at_once; ++i) {
        const Index at = row + i * blockDim.y;
        if (at >= last) break;
        const T deviation = values[i] - normal.mean;
        const T dy_masked = masked(normal, n.relu, deviation, gradients[i]);
        own[0] += dy_masked;
        own[1] = fma(dy_masked, deviation, own[1]);
        if (gradient != nullptr) gradient[at * part.channels] = fma(normal.scale, dy_masked, before[i]);
        if (y != nullptr) y[at * whole + channel] = normalised(normal, n.relu, deviation);
      }
    }
    for (int s = 0; s < 2; ++s) sums[s] = own[s];
  }
  add_over_threads(sums);
  if (threadIdx.y != 0 || channel >= end) return;
  for (int s = 0; s < 2; ++s) partial[(s * all_parts + first_part + blockIdx.y) * whole + channel] = sums[s];
}

/// Stores what comes of a channel's two sums: the gradients of beta and gamma, and what is owed to the part's own.
template <class T>
struct FinishGradients {
  Index rows;
  Normalization<T> n;
  GradientSums<T> totals;
  NormParts<T> parts;

  __device__ void finish(Index channel, const double (&sums)[2]) const {
    totals.finish(channel, sums);
    const int index = parts.holding(channel);
    const NormPart<T>& part = parts.parts[index];
    if (part.gradient == nullptr) return;
    const Correction<T> own = correction_of(channel_of(n, channel), n.rstd[channel], rows, totals.sum_dy[channel],
                                            totals.sum_dy_xhat[channel]);
    T* const offset = part.correction + channel - parts.first[index];
    T* const slope = offset + part.channels;
    *offset = part.gathered ? *offset + own.offset : own.offset;
    *slope = part.gathered ? *slope + own.slope : own.slope;
  }
};

template <int Width, class T>
__global__ void correct_kernel(Index rows, Index groups, const T* x, const T* mean, const T* correction, T* gradient) {
  const Index group = row_group();
  if (group >= groups) return;
  const auto means = load<Width>(mean + group * Width);
  const auto offsets = load<Width>(correction + group * Width);
  const auto slopes = load<Width>(correction + (groups + group) * Width);
  for (Index row = first_row(); row < rows; row += row_step()) {
    const Index at = (row * groups + group) * Width;
    const Pack<T, Width> values = load<Width>(x + at);
    Pack<T, Width> pack = load<Width>(gradient + at);
    for (int lane = 0; lane < Width; ++lane) {
      pack[lane] -= fma(slopes[lane], values[lane] - means[lane], offsets[lane]);
    }
    store(gradient + at, pack);
  }
}

/// The matrix that is normalised, in its parts.
template <class T>
struct Input {
  Index rows;
  Index channels;
  Index parts;
  const NormPart<T>* part;
  const Normalization<T>& n;
};

/// Calls body(chunk) for chunks of the rows in order; the last may have fewer rows.
template <class Body>
void for_each_chunk(Index rows, Index rows_per_chunk, const Body& body) {
  for (Index first = 0; first < rows; first += rows_per_chunk) {
    body(Chunk{first, smaller(rows_per_chunk, rows - first)});
  }
}

/// Calls launch(parts, begin, end) for runs of the parts, channels counted in packs of `width`.
template <class T, class Launch>
void for_each_run_of(int width, const Input<T>& x, const Launch& launch) {
  const auto may_join = [](const auto&, const auto&) { return true; };  // no two share a gradient
  for_each_run(
      width, x.parts, [&](Index i) { return x.part[i]; }, may_join, launch);
}

/// y: of the chunk.
template <class T>
void normalise(const Input<T>& x, const Chunk& chunk, T* y) {
  with_width_of<T>(
      x.parts, [&](Index i) { return x.part[i]; },
      [&](auto width) {
        for_each_run_of(width(), x, [&](const NormParts<T>& run, Index begin, Index end) {
          PALIMPSEST_LAUNCH(geometry(plan::rows(chunk.rows, end - begin)), (normalise_kernel<width(), T>), chunk, begin,
                            end, x.channels / width(), run, x.n, y);
        });
      });
}

/// Forward, a chunk at a time: convolve(chunk, y of the chunk). y: kept, or null; then each chunk's is made in `room`.
template <class T, class Convolve>
void convolve_normalised(const Input<T>& x, Index rows_per_chunk, T* y, T* room, const Convolve& convolve) {
  for_each_chunk(x.rows, rows_per_chunk, [&](const Chunk& chunk) {
    T* const y_chunk = y == nullptr ? room : y + chunk.first * x.channels;
    normalise(x, chunk, y_chunk);
    convolve(chunk, y_chunk);
  });
}

/// The workspace of the gradient pass: the partial sums of all chunks, y and its gradient of one.
template <class T>
struct GradientRoom {
  double* partial;
  T* y;
  T* dy;

  GradientRoom(T* begin, Index sum_bytes, Index y_bytes)
      : partial(reinterpret_cast<double*>(begin)),
        y(begin + sum_bytes / static_cast<Index>(sizeof(T))),
        dy(y + y_bytes / static_cast<Index>(sizeof(T))) {}
};

/// The gradient pass, a chunk at a time: grad_input(chunk, dy) writes dy of the chunk, and grad_weight(chunk, y of the
/// chunk), called where the weights' gradient is wanted, adds to that. y: kept, or null.
template <class T, class GradInput, class GradWeight>
void differentiate(const Input<T>& x, Index rows_per_chunk, const plan::NormConvSums& sums, const GradientRoom<T>& room,
                   const T* y, bool wants_weight, const GradientSums<T>& totals, const GradInput& grad_input,
                   const GradWeight& grad_weight) {
  T* const y_again = y == nullptr && wants_weight ? room.y : nullptr;
  Index first_part = 0;
  for_each_chunk(x.rows, rows_per_chunk, [&](const Chunk& chunk) {
    grad_input(chunk, room.dy);
    const Index chunk_parts = ceil_div(chunk.rows, sums.rows_per_part);
    for_each_run_of(1, x, [&](const NormParts<T>& run, Index begin, Index end) {
      PALIMPSEST_LAUNCH(channel_blocks(begin, end, chunk_parts), gradient_kernel<T>, chunk, begin, end, x.channels, run,
                        x.n, room.dy, y_again, sums.rows_per_part, first_part, sums.parts, room.partial);
    });
    first_part += chunk_parts;
    if (wants_weight) grad_weight(chunk, y == nullptr ? room.y : y + chunk.first * x.channels);
  });
  for_each_run_of(1, x, [&](const NormParts<T>& run, Index begin, Index end) {
    const FinishGradients<T> finish = {x.rows, x.n, totals, run};
    PALIMPSEST_LAUNCH(channel_blocks(begin, end, 1), (add_parts<2, FinishGradients<T>>), begin, end, x.channels,
                      sums.parts, room.partial, finish);
  });
}

template <class T>
Input<T> input_of(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n) {
  return {g.rows, g.channels, g.parts, parts, n};
}

template <class T>
Input<T> input_of(const Conv2dGeometry& g, Index parts, const NormPart<T>* part, const Normalization<T>& n) {
  return {g.n * plan::input_pixels(g), g.c_in, parts, part, n};
}

/// The convolution of a chunk of whole images, and where they begin.
struct ChunkOfImages {
  Conv2dGeometry geometry;
  Index first_output;  // in z, in elements

  ChunkOfImages(const Conv2dGeometry& g, const Chunk& chunk)
      : geometry(g), first_output(chunk.first / plan::input_pixels(g) * plan::output_pixels(g) * g.c_out) {
    geometry.n = chunk.rows / plan::input_pixels(g);
  }
};

}  // namespace

template <class T>
void norm_conv_forward(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n, const T* w, T* z,
                       T* y, T* workspace) {
  const Workspace<T> own(workspace);
  const auto convolve = [&](const Chunk& chunk, const T* y_chunk) {
    cuda::gemm<T>(chunk.rows, g.outputs, g.channels, {y_chunk, g.channels}, {w, g.channels, true},
                  z + chunk.first * g.outputs, g.outputs, false, g.products.precision, own.products);
  };
  convolve_normalised(input_of(g, parts, n), plan::norm_conv_rows(g, sizeof(T)), y, own.rest, convolve);
}

template <class T>
void norm_conv_backward(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n, const T* w,
                        const T* y, const T* dz, T* dw, bool accumulate, T* sum_dy, T* sum_dy_xhat, T* workspace) {
  const Workspace<T> own(workspace);
  const GradientRoom<T> room(own.rest, plan::norm_conv_sum_bytes(g, sizeof(T)),
                             plan::norm_conv_forward_bytes(g, sizeof(T)));
  const auto grad_input = [&](const Chunk& chunk, T* dy) {
    cuda::gemm<T>(chunk.rows, g.channels, g.outputs, {dz + chunk.first * g.outputs, g.outputs}, {w, g.channels}, dy,
                  g.channels, false, g.products.precision, own.products);
  };
  const auto grad_weight = [&](const Chunk& chunk, const T* y_chunk) {
    cuda::gemm<T>(g.outputs, g.channels, chunk.rows, {dz + chunk.first * g.outputs, g.outputs, true},
                  {y_chunk, g.channels}, dw, g.channels, accumulate || chunk.first > 0, g.products.precision,
                  own.products);
  };
  differentiate<T>(input_of(g, parts, n), plan::norm_conv_rows(g, sizeof(T)), plan::norm_conv_sums(g, sizeof(T)), room,
                   y, dw != nullptr, {n.rstd, sum_dy, sum_dy_xhat}, grad_input, grad_weight);
}

template <class T>
void norm_conv2d_forward(const Conv2dGeometry& g, std::int64_t parts, const NormPart<T>* part,
                         const Normalization<T>& n, const T* w, T* z, T* y, T* workspace) {
  T* const room =
      Workspace<T>(workspace).rest + plan::norm_conv2d_forward_columns(g, sizeof(T)) / static_cast<Index>(sizeof(T));
  const Index rows = plan::norm_conv2d_images(g, sizeof(T)) * plan::input_pixels(g);
  convolve_normalised(input_of(g, parts, part, n), rows, y, room, [&](const Chunk& chunk, const T* y_chunk) {
    const ChunkOfImages images(g, chunk);
    conv2d_forward(images.geometry, y_chunk, w, z + images.first_output, workspace);
  });
}

template <class T>
void norm_conv2d_backward(const Conv2dGeometry& g, std::int64_t parts, const NormPart<T>* part,
                          const Normalization<T>& n, const T* w, const T* y, const T* dz, T* dw, bool accumulate,
                          T* sum_dy, T* sum_dy_xhat, T* workspace) {
  const plan::NormConvSums sums = plan::norm_conv2d_sums(g, sizeof(T));
  const Index columns = plan::norm_conv2d_backward_columns(g, sizeof(T));
  const GradientRoom<T> room(Workspace<T>(workspace).rest + columns / static_cast<Index>(sizeof(T)),
                             plan::sum_bytes(sums, g.c_in), plan::norm_conv2d_chunk_bytes(g, sizeof(T)));
  const auto grad_input = [&](const Chunk& chunk, T* dy) {
    const ChunkOfImages images(g, chunk);
    conv2d_grad_input(images.geometry, dz + images.first_output, w, dy, false, workspace);
  };
  const auto grad_weight = [&](const Chunk& chunk, const T* y_chunk) {
    const ChunkOfImages images(g, chunk);
    conv2d_grad_weight(images.geometry, y_chunk, dz + images.first_output, dw, accumulate || chunk.first > 0,
                       workspace);
  };
  differentiate<T>(input_of(g, parts, part, n), plan::norm_conv2d_images(g, sizeof(T)) * plan::input_pixels(g), sums,
                   room, y, dw != nullptr, {n.rstd, sum_dy, sum_dy_xhat}, grad_input, grad_weight);
}

template <class T>
void norm_conv_correct(std::int64_t rows, std::int64_t channels, const T* x, const T* mean, const T* correction,
                       T* gradient) {
  with_width<T>(channels, [&](auto width) {
    const Index groups = channels / width();
    PALIMPSEST_LAUNCH(geometry(plan::rows(rows, groups)), (correct_kernel<width(), T>), rows, groups, x, mean,
                      correction, gradient);
  });
}

#define INSTANTIATE(T)                                                                                                 \
  template void norm_conv_forward(const NormConvGeometry&, const NormPart<T>*, const Normalization<T>&, const T*, T*,  \
                                  T*, T*);                                                                             \
  template void norm_conv_backward(const NormConvGeometry&, const NormPart<T>*, const Normalization<T>&, const T*,     \
                                   const T*, const T*, T*, bool, T*, T*, T*);                                          \
  template void norm_conv2d_forward(const Conv2dGeometry&, std::int64_t, const NormPart<T>*, const Normalization<T>&,  \
                                    const T*, T*, T*, T*);                                                             \
  template void norm_conv2d_backward(const Conv2dGeometry&, std::int64_t, const NormPart<T>*, const Normalization<T>&, \
                                     const T*, const T*, const T*, T*, bool, T*, T*, T*);                              \
  template void norm_conv_correct(std::int64_t, std::int64_t, const T*, const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::gpu
