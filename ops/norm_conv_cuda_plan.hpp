#pragma once

// How ops/norm_conv_kernels.hpp runs on CUDA: the normalised input exists for a chunk of the rows at a time, as the
// columns of a convolution do, and matrix products read it there. Plain functions of the geometry.

#include "core/cuda_geometry.hpp"
#include "ops/norm_conv_kernels.hpp"

namespace palimpsest::gpu_geometry {

using NormConvolution = kernels::NormConvGeometry;

/// Rows at a time: the gradient pass holds y and its gradient for so many, in at most `limit` bytes (but for one at
/// least). Forward takes the same chunks: where products are cut must not depend on what a policy keeps.
constexpr Index norm_conv_rows(const NormConvolution& g, Index element_bytes, Index limit) {
  return smaller(g.rows, larger(1, limit / (2 * g.channels * element_bytes)));
}

constexpr Index norm_conv_chunks(const NormConvolution& g, Index element_bytes, Index limit) {
  return ceil_div(g.rows, norm_conv_rows(g, element_bytes, limit));
}

/// Bytes of y, or of its gradient, for one chunk; a multiple of 256.
constexpr Index norm_conv_forward_bytes(const NormConvolution& g, Index element_bytes, Index limit) {
  return ceil_div(norm_conv_rows(g, element_bytes, limit) * g.channels * element_bytes, 256) * 256;
}

/// Parts of the rows of a chunk that the gradient pass sums apart.
constexpr Index norm_conv_parts(const NormConvolution& g, Index element_bytes, Index limit) {
  return channel_reduction(norm_conv_rows(g, element_bytes, limit), g.channels).parts;
}

/// Doubles of partial sums of the two numbers that the gradient pass adds up for each channel.
constexpr Index norm_conv_sums(const NormConvolution& g, Index element_bytes, Index limit) {
  return 2 * g.channels * norm_conv_parts(g, element_bytes, limit) * norm_conv_chunks(g, element_bytes, limit);
}

/// The partial sums, then y, then its gradient.
constexpr Index norm_conv_backward_bytes(const NormConvolution& g, Index element_bytes, Index limit) {
  const Index sums = ceil_div(norm_conv_sums(g, element_bytes, limit) * 8, 256) * 256;
  return sums + 2 * norm_conv_forward_bytes(g, element_bytes, limit);
}

}  // namespace palimpsest::gpu_geometry
