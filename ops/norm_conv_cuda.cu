// A chunk of rows at a time: a kernel normalises the parts where they are, into y or into the workspace, and cuBLAS
// multiplies that; in the gradient pass a product comes first, and one kernel then does all that is not a product.

#include "ops/batch_norm_cuda.hpp"
#include "ops/conv2d_cuda_plan.hpp"
#include "ops/cuda_parts.hpp"
#include "ops/cuda_reduce.hpp"
#include "ops/cuda_workspace.hpp"
#include "ops/gemm.hpp"
#include "ops/norm_conv_cuda_plan.hpp"
#include "ops/norm_conv_kernels.hpp"

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
    const Index last = plan::smaller(chunk.rows, (blockIdx.y + 1) * rows_per_part);
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

/// Calls body(chunk) for chunks of the rows in order.
template <class T, class Body>
void for_each_chunk(const NormConvGeometry& g, const Body& body) {
  const Index rows = plan::norm_conv_rows(g, sizeof(T), static_cast<Index>(column_limit()));
  for (Index first = 0; first < g.rows; first += rows) body(Chunk{first, plan::smaller(rows, g.rows - first)});
}

/// Calls launch(parts, begin, end) for runs of the parts, channels counted in packs of `width`.
template <class T, class Launch>
void for_each_run_of(int width, const NormConvGeometry& g, const NormPart<T>* parts, const Launch& launch) {
  const auto may_join = [](const auto&, const auto&) { return true; };  // no two share a gradient
  for_each_run(
      width, g.parts, [&](Index i) { return parts[i]; }, may_join, launch);
}

template <class T>
void normalise(const NormConvGeometry& g, const Chunk& chunk, const NormPart<T>* parts, const Normalization<T>& n,
               T* y) {
  with_width_of<T>(
      g.parts, [&](Index i) { return parts[i]; },
      [&](auto width) {
        for_each_run_of(width(), g, parts, [&](const NormParts<T>& run, Index begin, Index end) {
          PALIMPSEST_LAUNCH(geometry(plan::rows(chunk.rows, end - begin)), (normalise_kernel<width(), T>), chunk, begin,
                            end, g.channels / width(), run, n, y);
        });
      });
}

}  // namespace

template <class T>
void norm_conv_forward(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n, const T* w, T* z,
                       T* y, T* workspace) {
  const Workspace<T> own(workspace);
  for_each_chunk<T>(g, [&](const Chunk& chunk) {
    T* const room = y == nullptr ? own.rest : y + chunk.first * g.channels;
    normalise(g, chunk, parts, n, room);
    cuda::gemm<T>(chunk.rows, g.outputs, g.channels, {room, g.channels}, {w, g.channels, true},
                  z + chunk.first * g.outputs, g.outputs, false, own.products);
  });
}

template <class T>
void norm_conv_backward(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n, const T* w,
                        const T* y, const T* dz, T* dw, bool accumulate, T* sum_dy, T* sum_dy_xhat, T* workspace) {
  const Index limit = static_cast<Index>(column_limit());
  const plan::NormConvSums sums = plan::norm_conv_sums(g, sizeof(T), limit);
  const Workspace<T> own(workspace);
  double* const partial = reinterpret_cast<double*>(own.rest);
  T* const y_room = own.rest + plan::norm_conv_sum_bytes(g, sizeof(T), limit) / static_cast<Index>(sizeof(T));
  T* const dy = y_room + plan::norm_conv_forward_bytes(g, sizeof(T), limit) / static_cast<Index>(sizeof(T));
  T* const y_again = y == nullptr && dw != nullptr ? y_room : nullptr;
  Index first_part = 0;
  bool add = accumulate;
  for_each_chunk<T>(g, [&](const Chunk& chunk) {
    const T* const dz_chunk = dz + chunk.first * g.outputs;
    cuda::gemm<T>(chunk.rows, g.channels, g.outputs, {dz_chunk, g.outputs}, {w, g.channels}, dy, g.channels, false,
                  own.products);
    const Index chunk_parts = plan::ceil_div(chunk.rows, sums.rows_per_part);
    for_each_run_of(1, g, parts, [&](const NormParts<T>& run, Index begin, Index end) {
      PALIMPSEST_LAUNCH(channel_blocks(begin, end, chunk_parts), gradient_kernel<T>, chunk, begin, end, g.channels, run,
                        n, dy, y_again, sums.rows_per_part, first_part, sums.parts, partial);
    });
    first_part += chunk_parts;
    if (dw == nullptr) return;
    const T* const y_chunk = y == nullptr ? y_room : y + chunk.first * g.channels;
    cuda::gemm<T>(g.outputs, g.channels, chunk.rows, {dz_chunk, g.outputs, true}, {y_chunk, g.channels}, dw, g.channels,
                  add, own.products);
    add = true;
  });
  for_each_run_of(1, g, parts, [&](const NormParts<T>& run, Index begin, Index end) {
    const FinishGradients<T> finish = {g.rows, n, {n.rstd, sum_dy, sum_dy_xhat}, run};
    PALIMPSEST_LAUNCH(channel_blocks(begin, end, 1), (add_parts<2, FinishGradients<T>>), begin, end, g.channels,
                      sums.parts, partial, finish);
  });
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

#define INSTANTIATE(T)                                                                                                \
  template void norm_conv_forward(const NormConvGeometry&, const NormPart<T>*, const Normalization<T>&, const T*, T*, \
                                  T*, T*);                                                                            \
  template void norm_conv_backward(const NormConvGeometry&, const NormPart<T>*, const Normalization<T>&, const T*,    \
                                   const T*, const T*, T*, bool, T*, T*, T*);                                         \
  template void norm_conv_correct(std::int64_t, std::int64_t, const T*, const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::gpu
