#pragma once

// How a convolution on CUDA becomes matrix products: plain functions of its geometry. The pixels that an output sees
// are copied side by side into a row ("columns", Chellapilla et al. 2006), for a chunk of the images at a time, so that
// the workspace is bounded whatever the batch.

#include <cstddef>

#include <palimpsest/core/cuda/geometry.hpp>
#include <palimpsest/ops/kernels/conv2d.hpp>

namespace palimpsest::gpu_geometry {

using Convolution = kernels::Conv2dGeometry;

/// The most bytes that are to exist of columns at a time.
constexpr Index bound(const ops::ProductOptions& products) { return static_cast<Index>(products.column_bytes); }

/// Elements of a row of columns: taps x input channels.
constexpr Index row_elements(const Convolution& g) { return g.kernel_h * g.kernel_w * g.c_in; }

constexpr Index output_pixels(const Convolution& g) { return g.h_out * g.w_out; }

/// Images per chunk of columns: as many as the bound allows, but one at least.
constexpr Index chunk_images(const Convolution& g, Index element_bytes) {
  return images_per_chunk(g.n, output_pixels(g) * row_elements(g) * element_bytes, bound(g.products));
}

/// The data gradient of a convolution with stride 1 is a convolution of dy with the mirrored kernel, its input and
/// output channels exchanged. That has fewer columns than the general way (products into columns of dx, which are then
/// summed) where there are fewer output channels than input channels, as in every layer of a DenseNet.
constexpr bool prefers_mirrored(const Convolution& g) {
  return g.stride_h == 1 && g.stride_w == 1 && g.c_out < g.c_in && !is_pointwise(g);
}

constexpr Convolution mirrored(const Convolution& g) {
  Convolution m = g;
  m.c_in = g.c_out, m.h_in = g.h_out, m.w_in = g.w_out;
  m.c_out = g.c_in, m.h_out = g.h_in, m.w_out = g.w_in;
  m.pad_top = g.kernel_h - 1 - g.pad_top;
  m.pad_left = g.kernel_w - 1 - g.pad_left;
  return m;
}

constexpr Index round_to_256(Index bytes) { return ceil_div(bytes, 256) * 256; }

/// Bytes of columns that forward and the weight gradient make at a time; a multiple of 256.
constexpr Index column_chunk_bytes(const Convolution& g, Index element_bytes) {
  if (is_pointwise(g)) return 0;
  return round_to_256(chunk_images(g, element_bytes) * output_pixels(g) * row_elements(g) * element_bytes);
}

/// Bytes of columns and, in front of them, of a mirrored kernel that the data gradient makes.
constexpr Index mirrored_kernel_bytes(const Convolution& g, Index element_bytes) {
  return prefers_mirrored(g) ? round_to_256(g.c_out * row_elements(g) * element_bytes) : 0;
}
constexpr Index grad_input_bytes(const Convolution& g, Index element_bytes) {
  if (!prefers_mirrored(g)) return column_chunk_bytes(g, element_bytes);
  return mirrored_kernel_bytes(g, element_bytes) + column_chunk_bytes(mirrored(g), element_bytes);
}

}  // namespace palimpsest::gpu_geometry
