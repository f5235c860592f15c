#pragma once

// How CUDA kernels are cut into blocks: plain functions of shapes, without the toolkit's headers, so that they can be
// tested anywhere and so that workspace is known on a meta device too. Nothing here looks at the card: a partition that
// follows from shapes alone gives the same bits on every card.

#include <palimpsest/core/index.hpp>

namespace palimpsest::gpu_geometry {

/// Threads of a block in every kernel.
inline constexpr int block_threads = 256;

/// Elements that one thread moves at once: 16 bytes where `count` divides into them, else 1. Allocations are aligned to
/// 256 bytes, so that a dense tensor's rows are aligned where their length divides.
constexpr int vector_width(Index count, Index element_bytes) {
  const Index width = 16 / element_bytes;
  return count % width == 0 ? static_cast<int>(width) : 1;
}

/// A one-dimensional launch. Threads stride over what is left, so that any count is covered by a bounded grid.
struct Linear {
  unsigned blocks;

  static constexpr Index max_blocks = 8192;
};

/// For `count` independent work items. No blocks for none.
constexpr Linear linear(Index count) {
  return {static_cast<unsigned>(smaller(ceil_div(count, block_threads), Linear::max_blocks))};
}

/// Blocks of a launch over rows: enough to fill the largest cards, few enough that a thread meets many rows.
inline constexpr Index max_row_blocks = 1024;

/// A launch over a matrix of rows x groups, where a group is what one thread moves at once. A thread keeps its group
/// and strides over rows, so that what belongs to a channel is loaded once, and neighbours in a block are neighbours in
/// memory.
struct Rows {
  unsigned threads_x;  // groups side by side
  unsigned threads_y;  // rows at once
  unsigned blocks_x;   // to cover all groups
  unsigned blocks_y;
};

constexpr Rows rows(Index row_count, Index groups) {
  if (row_count == 0 || groups == 0) return {1, 1, 0, 0};
  const Index x = smaller(groups, 64);
  const Index y = block_threads / x;
  const Index blocks_x = ceil_div(groups, x);
  const Index wanted = larger(1, max_row_blocks / blocks_x);
  const Index blocks_y = smaller(smaller(ceil_div(row_count, y), wanted), 65535);
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(blocks_x),
          static_cast<unsigned>(blocks_y)};
}

/// A sum over the rows of a rows x channels matrix: each block sums one part of the rows for up to 32 channels, and a
/// second launch adds the parts in order.
struct ChannelReduction {
  static constexpr unsigned threads_x = 32;  // channels side by side
  static constexpr unsigned threads_y = block_threads / threads_x;

  Index parts;          // of the rows
  Index rows_per_part;  // the last part may be shorter
  unsigned blocks_x;    // to cover all channels
};

constexpr ChannelReduction channel_reduction(Index row_count, Index channels) {
  // A part of fewer than 64 rows would be over before it has begun; more than 256 would make the second launch slow.
  const Index parts = larger(1, smaller(256, row_count / 64));
  const Index each = larger(1, ceil_div(row_count, parts));
  return {larger(1, ceil_div(row_count, each)), each, static_cast<unsigned>(ceil_div(channels, 32))};
}

/// Images of a convolution whose columns are made at once: as many as fit `column_bytes`, but one at least.
constexpr Index images_per_chunk(Index images, Index bytes_per_image, Index column_bytes) {
  return smaller(images, larger(1, column_bytes / larger(1, bytes_per_image)));
}

}  // namespace palimpsest::gpu_geometry
