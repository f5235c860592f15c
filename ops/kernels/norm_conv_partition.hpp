#pragma once

// How the CPU kernels of ops/kernels/norm_conv.hpp cut their work, which is also what sizes their workspace. Everything
// here has internal linkage, so that kernel files may use it (see core/kernel.hpp).

#include <palimpsest/ops/kernels/conv2d_partition.hpp>
#include <palimpsest/ops/kernels/norm_conv.hpp>

namespace palimpsest::kernels {
namespace {

/// A tile of normalised input, on the stack: it and what is multiplied with it fit the second-level cache.
inline constexpr Index norm_conv_scratch_bytes = 64 * 1024;

/// Tiles of `rows` pixels by `channels` channels, in a scratch with rows of `pitch` elements.
struct NormConvCut {
  Index rows, channels, pitch;
  Index task_rows;
};

/// Rows of an odd number of cache lines, so that neighbouring rows do not compete for the same places in a cache.
constexpr Index scratch_pitch(Index channels) { return round_up(channels, 2 * max_lanes) + max_lanes; }

constexpr NormConvCut make_cut(Index channels, Index pitch, std::size_t element_bytes) {
  const Index capacity = norm_conv_scratch_bytes / static_cast<Index>(element_bytes) - max_lanes;
  const Index rows = smaller(64, larger(1, capacity / pitch));
  return {rows >= 8 ? rows / 8 * 8 : rows, channels, pitch, 0};
}

/// As many channels at a time as leave room for 16 pixels. `exact`: rows of the scratch are rows of y.
constexpr NormConvCut cut_forward(const NormConvGeometry& g, std::size_t element_bytes, bool exact) {
  const Index capacity = norm_conv_scratch_bytes / static_cast<Index>(element_bytes);
  const Index most = capacity / 16 / (2 * max_lanes) * (2 * max_lanes) - 2 * max_lanes;
  const Index blocks = ceil_div(g.channels, most);
  const Index channels = smaller(g.channels, round_up(ceil_div(g.channels, blocks), max_lanes));
  NormConvCut cut = make_cut(channels, scratch_pitch(channels), element_bytes);
  if (exact && blocks == 1) cut.pitch = channels;
  const Index tasks = smaller(64, ceil_div(g.rows, cut.rows));
  cut.task_rows = round_up(ceil_div(g.rows, tasks), cut.rows);
  return cut;
}

/// The gradient pass takes so few channels at a time that what it needs of a tile, x and its gradient, y and its
/// gradient, fits the first-level cache. They are as many as the convolution's widest tile makes at once.
inline constexpr Index gradient_channels = 48;
inline constexpr Index gradient_rows = 64;
inline constexpr Index gradient_pitch = scratch_pitch(gradient_channels);

/// Channels that one task of the gradient pass goes through.
constexpr Index gradient_groups(const NormConvGeometry& g) { return ceil_div(g.channels, 10 * gradient_channels); }

/// The gradient pass sums over the rows in chunks, each with its own partial sums of dw and of the channels.
struct NormConvSplit {
  Index chunks;
  Index partial;       // elements of a partial dw
  Index sum_elements;  // of all the channels' sums, held in double
};

constexpr NormConvSplit split_backward(const NormConvGeometry& g) {
  const Index partial = g.channels * round_up(g.outputs, max_lanes);
  const Index affordable = larger(1, (Index{1} << 19) / partial);
  const Index chunks = smaller(smaller(16, affordable), ceil_div(g.rows, 128));
  return {chunks, partial, round_up(chunks * 4 * g.channels, max_lanes)};
}

constexpr Index parameter_elements(const NormConvGeometry& g) {
  return round_up(3 * (g.channels + 4 * max_lanes), max_lanes);
}

/// Any other convolution goes over units of `images` images: `chunks` tasks, each with its own scratch for what a unit
/// has of y and of its gradient, `elements` each, and its own partial sums of dw, which have `partial`.
struct NormConv2dCut {
  Index images, chunks, elements, partial;
};

/// True if the weight gradient of such a convolution goes by Winograd's algorithm: there are tiles for a few chunks.
constexpr bool norm_conv2d_winograd_weight(const Conv2dGeometry& g, std::size_t element_bytes) {
  return winograd_weight(g, element_bytes) && winograd_tiles(g) >= 4 * winograd_chunk_tiles;
}

constexpr NormConv2dCut cut_images(const Conv2dGeometry& g, std::size_t element_bytes) {
  const bool winograd = norm_conv2d_winograd_weight(g, element_bytes);
  const Index partial = winograd ? winograd_blocks(g).partial : split_weight_gradient(g).partial;
  const Index affordable = larger(1, (winograd ? winograd_sum_elements : Index{1} << 20) / partial);
  const Index worthwhile = winograd ? smaller(16, winograd_tiles(g) / winograd_chunk_tiles) : 16;
  const Index pixels = g.h_in * g.w_in;
  const Index images = smaller(larger(1, 256 / pixels), ceil_div(g.n, 16));
  const Index chunks = smaller(smaller(worthwhile, affordable), ceil_div(g.n, images));
  // Vectors may reach over the end.
  return {images, chunks, round_up(images * pixels * g.c_in, max_lanes) + 4 * max_lanes, partial};
}

}  // namespace
}  // namespace palimpsest::kernels
