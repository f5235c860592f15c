#pragma once

// How ops/kernels/norm_conv.hpp runs on CUDA: the normalised input exists for a chunk of the rows at a time, as the
// columns of a convolution do, and matrix products read it there. A chunk is some whole images if
// a kernel is larger than a pixel. Plain functions of the geometry.

#include <palimpsest/core/cuda/geometry.hpp>
#include <palimpsest/ops/kernels/conv2d_cuda_partition.hpp>
#include <palimpsest/ops/kernels/norm_conv.hpp>

namespace palimpsest::gpu_geometry {

using NormConvolution = kernels::NormConvGeometry;

/// Chunks begin at multiples of so many rows, and so do their rows of any tensor at multiples of 256 bytes from where
/// it begins: a product of a kept tensor finds its factors aligned as one of a tensor in the workspace does, and
/// cuBLAS, which looks at that, chooses alike for both.
inline constexpr Index norm_conv_row_unit = 64;

/// Rows at a time: the gradient pass holds y and its gradient for so many, in at most the bound's bytes (but for 64
/// rows at least). Forward takes the same chunks: where products are cut must not depend on what a policy keeps. Fewer
/// than 2^31, which is what a product takes.
constexpr Index norm_conv_rows(const NormConvolution& g, Index element_bytes) {
  const Index units = bound(g.products) / (2 * g.channels * element_bytes * norm_conv_row_unit);
  const Index most = norm_conv_row_unit * smaller(larger(1, units), Index{1} << 24);
  const Index even = ceil_div(g.rows, ceil_div(g.rows, most));
  return smaller(g.rows, ceil_div(even, norm_conv_row_unit) * norm_conv_row_unit);
}

/// Bytes of y, or of its gradient, for one chunk; a multiple of 256.
constexpr Index norm_conv_forward_bytes(const NormConvolution& g, Index element_bytes) {
  return round_to_256(norm_conv_rows(g, element_bytes) * g.channels * element_bytes);
}

/// The parts of the rows that the gradient pass sums apart: each chunk is cut as the first, the last may have fewer.
struct NormConvSums {
  Index rows_per_part;
  Index parts_per_chunk;
  Index parts;  // of all chunks
};

/// Given the rows of every chunk but the last.
constexpr NormConvSums sums_of_chunks(Index rows, Index rows_per_chunk, Index channels) {
  const ChannelReduction chunk = channel_reduction(rows_per_chunk, channels);
  const Index whole_chunks = (rows - 1) / rows_per_chunk;
  const Index last = ceil_div(rows - whole_chunks * rows_per_chunk, chunk.rows_per_part);
  return {chunk.rows_per_part, chunk.parts, whole_chunks * chunk.parts + last};
}

/// Bytes of the partial sums, in double, of the two numbers that the gradient pass adds up for each channel; a multiple
/// of 256.
constexpr Index sum_bytes(const NormConvSums& sums, Index channels) {
  return round_to_256(2 * channels * sums.parts * 8);
}

constexpr NormConvSums norm_conv_sums(const NormConvolution& g, Index element_bytes) {
  return sums_of_chunks(g.rows, norm_conv_rows(g, element_bytes), g.channels);
}

constexpr Index norm_conv_sum_bytes(const NormConvolution& g, Index element_bytes) {
  return sum_bytes(norm_conv_sums(g, element_bytes), g.channels);
}

/// The partial sums, then y, then its gradient.
constexpr Index norm_conv_backward_bytes(const NormConvolution& g, Index element_bytes) {
  return norm_conv_sum_bytes(g, element_bytes) + 2 * norm_conv_forward_bytes(g, element_bytes);
}

// --- Any other convolution -------------------------------------------------------------------------------------------

/// Rows of x and y that an image has.
constexpr Index input_pixels(const Convolution& g) { return g.h_in * g.w_in; }

/// Images at a time: as many as keep y, its gradient and the columns, the larger of both passes, within the bound
/// (but one image at least). Then the convolution of a chunk makes its columns in one piece. Forward takes the gradient
/// pass's chunks, as above; unlike there, y may lie at any multiple of its rows, for no product reads it: kernels copy
/// it into columns.
constexpr Index norm_conv2d_images(const Convolution& g, Index element_bytes) {
  const auto columns = [](const Convolution& of) { return output_pixels(of) * row_elements(of); };
  const Index most = prefers_mirrored(g) ? larger(columns(g), columns(mirrored(g))) : columns(g);
  return images_per_chunk(g.n, (2 * input_pixels(g) * g.c_in + most) * element_bytes, bound(g.products));
}

/// The convolution of one chunk; the last chunk may have fewer images.
constexpr Convolution norm_conv2d_chunk(const Convolution& g, Index element_bytes) {
  Convolution chunk = g;
  chunk.n = norm_conv2d_images(g, element_bytes);
  return chunk;
}

/// Bytes of y, or of its gradient, for one chunk; a multiple of 256.
constexpr Index norm_conv2d_chunk_bytes(const Convolution& g, Index element_bytes) {
  return round_to_256(norm_conv2d_images(g, element_bytes) * input_pixels(g) * g.c_in * element_bytes);
}

constexpr NormConvSums norm_conv2d_sums(const Convolution& g, Index element_bytes) {
  const Index rows = norm_conv2d_images(g, element_bytes) * input_pixels(g);
  return sums_of_chunks(g.n * input_pixels(g), rows, g.c_in);
}

/// The bytes that the convolution of a chunk takes, behind the products' own: multiples of 256.
constexpr Index norm_conv2d_forward_columns(const Convolution& g, Index element_bytes) {
  return column_chunk_bytes(norm_conv2d_chunk(g, element_bytes), element_bytes);
}
constexpr Index norm_conv2d_backward_columns(const Convolution& g, Index element_bytes) {
  return larger(norm_conv2d_forward_columns(g, element_bytes),
                grad_input_bytes(norm_conv2d_chunk(g, element_bytes), element_bytes));
}

/// The columns, then y.
constexpr Index norm_conv2d_forward_bytes(const Convolution& g, Index element_bytes) {
  return norm_conv2d_forward_columns(g, element_bytes) + norm_conv2d_chunk_bytes(g, element_bytes);
}

/// The columns, then the partial sums, y and its gradient.
constexpr Index norm_conv2d_backward_bytes(const Convolution& g, Index element_bytes) {
  return norm_conv2d_backward_columns(g, element_bytes) + sum_bytes(norm_conv2d_sums(g, element_bytes), g.c_in) +
         2 * norm_conv2d_chunk_bytes(g, element_bytes);
}

}  // namespace palimpsest::gpu_geometry
