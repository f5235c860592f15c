#pragma once

// How ops/norm_conv_kernels.hpp runs on CUDA: the normalised input exists for a chunk of the rows at a time, as the
// columns of a convolution do, and matrix products read it there. Plain functions of the geometry.

#include "core/cuda_geometry.hpp"
#include "ops/norm_conv_kernels.hpp"

namespace palimpsest::gpu_geometry {

using NormConvolution = kernels::NormConvGeometry;

/// Chunks begin at multiples of so many rows, and so do their rows of any tensor at multiples of 256 bytes from where
/// it begins: a product of a kept tensor finds its factors aligned as one of a tensor in the workspace does, and
/// cuBLAS, which looks at that, chooses alike for both.
inline constexpr Index norm_conv_row_unit = 64;

/// Rows at a time: the gradient pass holds y and its gradient for so many, in at most `limit` bytes (but for 64 rows at
/// least). Forward takes the same chunks: where products are cut must not depend on what a policy keeps. Fewer than
/// 2^31, which is what a product takes.
constexpr Index norm_conv_rows(const NormConvolution& g, Index element_bytes, Index limit) {
  const Index units = limit / (2 * g.channels * element_bytes * norm_conv_row_unit);
  const Index most = norm_conv_row_unit * smaller(larger(1, units), Index{1} << 24);
  const Index even = ceil_div(g.rows, ceil_div(g.rows, most));
  return smaller(g.rows, ceil_div(even, norm_conv_row_unit) * norm_conv_row_unit);
}

/// Bytes of y, or of its gradient, for one chunk; a multiple of 256.
constexpr Index norm_conv_forward_bytes(const NormConvolution& g, Index element_bytes, Index limit) {
  return ceil_div(norm_conv_rows(g, element_bytes, limit) * g.channels * element_bytes, 256) * 256;
}

/// The parts of the rows that the gradient pass sums apart: each chunk is cut as the first, the last may have fewer.
struct NormConvSums {
  Index rows_per_part;
  Index parts_per_chunk;
  Index parts;  // of all chunks
};

constexpr NormConvSums norm_conv_sums(const NormConvolution& g, Index element_bytes, Index limit) {
  const Index rows = norm_conv_rows(g, element_bytes, limit);
  const ChannelReduction chunk = channel_reduction(rows, g.channels);
  const Index whole_chunks = (g.rows - 1) / rows;
  const Index last = ceil_div(g.rows - whole_chunks * rows, chunk.rows_per_part);
  return {chunk.rows_per_part, chunk.parts, whole_chunks * chunk.parts + last};
}

/// Bytes of the partial sums, in double, of the two numbers that the gradient pass adds up for each channel; a multiple
/// of 256.
constexpr Index norm_conv_sum_bytes(const NormConvolution& g, Index element_bytes, Index limit) {
  return ceil_div(2 * g.channels * norm_conv_sums(g, element_bytes, limit).parts * 8, 256) * 256;
}

/// The partial sums, then y, then its gradient.
constexpr Index norm_conv_backward_bytes(const NormConvolution& g, Index element_bytes, Index limit) {
  return norm_conv_sum_bytes(g, element_bytes, limit) + 2 * norm_conv_forward_bytes(g, element_bytes, limit);
}

}  // namespace palimpsest::gpu_geometry
