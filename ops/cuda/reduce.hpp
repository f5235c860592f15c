#pragma once

// Sums, deterministic: over all that the threads of a block have, and over the rows of a rows x channels matrix. The
// split follows from shapes alone (gpu_geometry::channel_reduction), every sum has a fixed order and there are no
// atomics. Over rows a thread sums a few dozen terms in T; what threads have summed is added in double.

#include <palimpsest/core/cuda/kernels.hpp>

namespace palimpsest::cuda {

/// The sum of what the threads of a block of gpu_geometry::block_threads in a row have, in the first one. All threads
/// of the block must call it.
template <class Sum>
__device__ Sum add_over_block(Sum value) {
  constexpr unsigned threads = gpu_geometry::block_threads;
  __shared__ Sum shared[threads];
  shared[threadIdx.x] = value;
  __syncthreads();
  for (unsigned step = threads / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) shared[threadIdx.x] += shared[threadIdx.x + step];
    __syncthreads();
  }
  return shared[0];
}

template <class T>
__global__ void add_partial_kernel(Index parts, const double* partial, double divisor, T* result) {
  double sum = 0;
  for (Index part = threadIdx.x; part < parts; part += blockDim.x) sum += partial[part];
  const double total = add_over_block(sum);
  if (threadIdx.x == 0) *result = static_cast<T>(total / divisor);
}

/// *result = the sum of `parts` partial sums, divided by `divisor`: one block does it.
template <class T>
void add_partial_sums(Index parts, const double* partial, double divisor, T* result) {
  const Geometry launch = {dim3(1), dim3(gpu_geometry::block_threads)};
  PALIMPSEST_LAUNCH(launch, add_partial_kernel<T>, parts, partial, divisor, result);
}

/// Adds what the threads of a block have, over threadIdx.y, into the first one's. All threads of the block must call
/// it.
template <int Sums>
__device__ inline void add_over_threads(double (&sums)[Sums]) {
  using Reduction = gpu_geometry::ChannelReduction;
  __shared__ double shared[Sums][Reduction::threads_y][Reduction::threads_x];
  for (int s = 0; s < Sums; ++s) shared[s][threadIdx.y][threadIdx.x] = sums[s];
  __syncthreads();
  for (unsigned step = Reduction::threads_y / 2; step > 0; step /= 2) {
    if (threadIdx.y < step) {
      for (int s = 0; s < Sums; ++s) {
        shared[s][threadIdx.y][threadIdx.x] += shared[s][threadIdx.y + step][threadIdx.x];
      }
    }
    __syncthreads();
  }
  for (int s = 0; s < Sums; ++s) sums[s] = shared[s][0][threadIdx.x];
}

/// Terms: `auto of_channel(Index channel)` gives what the terms of a channel have in common, and
/// `void add(common, Index at, T (&sums)[Sums])` adds those of the element at that offset.
/// partial: Sums x parts x channels.
template <int Sums, class T, class Terms>
__global__ void sum_parts(Index rows, Index channels, Index rows_per_part, Terms terms, double* partial) {
  const Index channel = row_group();
  const Index part = blockIdx.y;
  double sums[Sums] = {};
  if (channel < channels) {
    const auto common = terms.of_channel(channel);
    T own[Sums] = {};
    const Index end = smaller(rows, (part + 1) * rows_per_part);
#pragma unroll 8  // the loads overlap; the additions keep their order
    for (Index row = part * rows_per_part + threadIdx.y; row < end; row += blockDim.y) {
      terms.add(common, row * channels + channel, own);
    }
    for (int s = 0; s < Sums; ++s) sums[s] = own[s];
  }
  add_over_threads(sums);
  if (threadIdx.y != 0 || channel >= channels) return;
  for (int s = 0; s < Sums; ++s) partial[(s * Index{gridDim.y} + part) * channels + channel] = sums[s];
}

/// For the channels [begin, end) of all. Finish: `void finish(Index channel, const double (&sums)[Sums])` stores what
/// comes of a channel's sums.
template <int Sums, class Finish>
__global__ void add_parts(Index begin, Index end, Index channels, Index parts, const double* partial,
                          const __grid_constant__ Finish finish) {
  const Index channel = begin + row_group();
  double sums[Sums] = {};
  if (channel < end) {
    for (int s = 0; s < Sums; ++s) {
#pragma unroll 8
      for (Index part = threadIdx.y; part < parts; part += blockDim.y) {
        sums[s] += partial[(s * parts + part) * channels + channel];
      }
    }
  }
  add_over_threads(sums);
  if (threadIdx.y == 0 && channel < end) finish.finish(channel, sums);
}

/// A launch like that of channel_reduction(): `parts` of the rows for the channels [begin, end).
inline Geometry channel_blocks(Index begin, Index end, Index parts) {
  using Reduction = gpu_geometry::ChannelReduction;
  const Index blocks = ceil_div(end - begin, Reduction::threads_x);
  return geometry(Reduction{parts, 0, static_cast<unsigned>(blocks)});
}

/// Both launches. partial: Sums * channels * channel_reduction(rows, channels).parts doubles.
template <int Sums, class T, class Terms, class Finish>
void sum_over_rows(Index rows, Index channels, const Terms& terms, const Finish& finish, double* partial) {
  const gpu_geometry::ChannelReduction launch = gpu_geometry::channel_reduction(rows, channels);
  PALIMPSEST_LAUNCH(geometry(launch), (sum_parts<Sums, T, Terms>), rows, channels, launch.rows_per_part, terms,
                    partial);
  PALIMPSEST_LAUNCH(channel_blocks(0, channels, 1), (add_parts<Sums, Finish>), Index{0}, channels, channels,
                    launch.parts, partial, finish);
}

}  // namespace palimpsest::cuda
