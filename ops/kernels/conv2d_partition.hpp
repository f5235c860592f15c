#pragma once

// The partitions of work that the convolution kernels share with the functions that size their
// workspace. Everything here has internal linkage, so that kernel files may use it (see core/kernel.hpp).

#include <cstddef>

#include <palimpsest/core/index.hpp>
#include <palimpsest/ops/kernels/conv2d.hpp>

namespace palimpsest::kernels {
namespace {

/// The widest vector of any instruction set in elements. Padding to it is enough for all of them.
inline constexpr Index max_lanes = 16;

/// [begin, end).
struct Range {
  Index begin;
  Index end;
  constexpr Index size() const { return end - begin; }
};

constexpr Range intersect(Range a, Range b) {
  const Index begin = larger(a.begin, b.begin);
  return {begin, larger(begin, smaller(a.end, b.end))};
}

/// Part `part` of `parts` of [0, total), as even as can be.
constexpr Range even_part(Index total, Index part, Index parts) {
  return {total * part / parts, total * (part + 1) / parts};
}

/// The kernel taps k in [0, kernel) that read inside [0, in) for the output at `out`.
constexpr Range valid_taps(Index out, Index stride, Index pad, Index kernel, Index in) {
  const Index origin = out * stride - pad;
  return intersect({0, kernel}, {-origin, in - origin});
}

/// The outputs in [0, out) for which tap k reads inside [0, in).
constexpr Range valid_outputs(Index k, Index stride, Index pad, Index in, Index out) {
  const Index low = pad - k;        // o * stride >= low
  const Index high = in + pad - k;  // o * stride < high
  return intersect({0, out}, {low <= 0 ? 0 : ceil_div(low, stride), high <= 0 ? 0 : ceil_div(high, stride)});
}

/// The most input channels of a convolution by Winograd's algorithm: a panel of tiles is to fit the second-level cache.
inline constexpr Index winograd_channels = 256;

/// True if Winograd's algorithm F(4x4, 3x3) is faster than a direct convolution with so many channels and so large an
/// output, whose kernel and strides are those of `g` (docs/performance.md has the figures). Never where elements are
/// not float: float64 is what others are compared with. The same for any number of images.
constexpr bool prefers_winograd(const Conv2dGeometry& g, Index c_in, Index c_out, Index h_out, Index w_out,
                                std::size_t element_bytes) {
  if (g.kernel_h != 3 || g.kernel_w != 3 || g.stride_h != 1 || g.stride_w != 1) return false;
  if (element_bytes != sizeof(float) || smaller(c_in, c_out) < 32 || c_in > winograd_channels) return false;
  return round_up(h_out, 4) * round_up(w_out, 4) <= 2 * h_out * w_out;  // no more of the tiles is outside than inside
}

/// The same for a forward convolution and for its data gradient.
constexpr bool winograd_forward(const Conv2dGeometry& g, std::size_t element_bytes) {
  return prefers_winograd(g, g.c_in, g.c_out, g.h_out, g.w_out, element_bytes);
}
constexpr bool winograd_gradient(const Conv2dGeometry& g, std::size_t element_bytes) {
  return prefers_winograd(g, g.c_out, g.c_in, g.h_in, g.w_in, element_bytes);
}

/// Matrices of weights: one for each tap, or for each frequency.
constexpr Index weight_matrices(const Conv2dGeometry& g, bool winograd) {
  return winograd ? 36 : g.kernel_h * g.kernel_w;
}

/// Elements of the weights, packed for a forward convolution and for its data gradient.
constexpr Index packed_elements(const Conv2dGeometry& g, std::size_t element_bytes) {
  return weight_matrices(g, winograd_forward(g, element_bytes)) * g.c_in * round_up(g.c_out, max_lanes);
}
constexpr Index packed_gradient_elements(const Conv2dGeometry& g, std::size_t element_bytes) {
  return weight_matrices(g, winograd_gradient(g, element_bytes)) * g.c_out * round_up(g.c_in, max_lanes);
}

/// So many bytes come from memory rather than a cache, and asking for them ahead of time pays for the instructions that
/// it takes.
inline constexpr Index prefetch_bytes = 8 << 20;

/// How a weight gradient is summed: the pixels are cut into `chunks`, each with its own partial sum of dw, and dw into
/// `groups`, so that chunks * groups tasks keep many threads busy without holding many copies of a large dw.
struct WeightGradientSplit {
  Index chunks;
  Index groups;
  Index partial;  // elements of one partial sum, enough for every layout that the kernels choose from
};

constexpr WeightGradientSplit split_weight_gradient(const Conv2dGeometry& g) {
  const Index taps = g.kernel_h * g.kernel_w;
  const Index partial =
      larger(taps * g.c_in * round_up(g.c_out, max_lanes), taps * g.c_out * round_up(g.c_in, max_lanes));
  const Index pixels = g.n * g.h_out * g.w_out;
  const Index affordable = larger(1, (Index{1} << 19) / partial);
  const Index chunks = smaller(smaller(16, affordable), ceil_div(pixels, 128));
  return {chunks, ceil_div(16, chunks), partial};
}

/// How Winograd's algorithm sums a weight gradient: in blocks of c input and k output channels, whose sums for all
/// frequencies stay in the second-level cache.
struct WinogradBlocks {
  Index c, k;
  Index c_blocks, k_blocks;
  Index partial;  // elements of all blocks' sums
};

constexpr WinogradBlocks winograd_blocks(const Conv2dGeometry& g) {
  const Index c = g.c_out <= 32 ? 48 : 64;
  const Index k = g.c_in <= 32 ? 128 : 64;
  return {c, k, ceil_div(g.c_in, c), ceil_div(g.c_out, k), 36 * g.c_out * round_up(g.c_in, max_lanes)};
}

/// True if the weight gradient goes by that. Not where a sum would take more than 9 MB.
constexpr bool winograd_weight(const Conv2dGeometry& g, std::size_t element_bytes) {
  const Index fewer = smaller(g.c_in, g.c_out);
  const bool prefers = prefers_winograd(g, fewer, fewer, g.h_out, g.w_out, element_bytes);
  return prefers && g.c_in * g.c_out <= Index{1} << 16;
}

constexpr Index winograd_tiles(const Conv2dGeometry& g) { return g.n * ceil_div(g.h_out, 4) * ceil_div(g.w_out, 4); }

/// Tiles that make it worth having sums of their own, and the most elements of all sums.
inline constexpr Index winograd_chunk_tiles = 64;
inline constexpr Index winograd_sum_elements = Index{1} << 21;

/// The tiles are cut into chunks, each with its own partial sums.
constexpr Index winograd_weight_chunks(const Conv2dGeometry& g) {
  const WinogradBlocks blocks = winograd_blocks(g);
  const Index affordable = larger(1, winograd_sum_elements / blocks.partial);
  const Index enough = ceil_div(16, blocks.c_blocks * blocks.k_blocks);
  return smaller(smaller(enough, affordable), ceil_div(winograd_tiles(g), winograd_chunk_tiles));
}

}  // namespace
}  // namespace palimpsest::kernels
