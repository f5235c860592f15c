#pragma once

// Tiles of Winograd's algorithm in channels-last images, for kernel files: some of them are transformed into one matrix
// (tiles x channels) for each frequency.

#include <palimpsest/ops/cpu/winograd_transforms.hpp>
#include <palimpsest/ops/kernels/conv2d_partition.hpp>
#include <palimpsest/ops/kernels/conv2d_problem.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

/// The tiles that outputs are cut into.
struct TileGrid {
  Index images, rows, cols;
  Index count() const { return images * rows * cols; }
};

TileGrid tile_grid(Index images, Index h_out, Index w_out) {
  return {images, ceil_div(h_out, winograd_out), ceil_div(w_out, winograd_out)};
}

/// The place of a tile's first output.
struct TilePlace {
  Index image, row, col;
};

TilePlace tile_place(const TileGrid& grid, Index tile) {
  const Index row = tile / grid.cols;
  return {row / grid.rows, row % grid.rows * winograd_out, tile % grid.cols * winograd_out};
}

/// Images that tiles are taken from: (n, h, w, channels), dense. The first pixel that tile (0, 0) takes is at
/// (-pad_top, -pad_left); pixels outside are zero.
template <class T>
struct Images {
  const T* data;
  Index h, w, channels;
  Index pad_top, pad_left;
};

/// Matrices of tiles: element (frequency f, tile t, channel c) is at data + f * step + t * pitch + c.
template <class T>
struct TileMatrices {
  T* data;
  Index step, pitch;
};

/// Elements between the frequencies of so many tiles: a cache line more than they take, or else all frequencies of a
/// tile would compete for one set of a cache.
template <class T>
constexpr Index frequency_step(Index tiles, Index pitch) {
  return tiles * pitch + 64 / static_cast<Index>(sizeof(T));
}

/// Room for matrices of so many bytes.
template <class T>
constexpr Index matrices_room(Index bytes) {
  return bytes / static_cast<Index>(sizeof(T)) + frequency_step<T>(0, 0) * winograd_frequencies;
}

/// The channels of a pixel outside.
template <class T>
alignas(64) constexpr T no_pixel[winograd_channels] = {};

/// The pixels that a tile takes, from one channel on.
template <class T, int Side>
void find_pixels(const Images<T>& from, const TilePlace& place, Index channel, const T* (&pixel)[Side][Side]) {
  for (Index r = 0; r < Side; ++r) {
    const Index row = place.row + r - from.pad_top;
    for (Index s = 0; s < Side; ++s) {
      const Index col = place.col + s - from.pad_left;
      const bool inside = row >= 0 && row < from.h && col >= 0 && col < from.w;
      pixel[r][s] =
          inside ? from.data + ((place.image * from.h + row) * from.w + col) * from.channels + channel : no_pixel<T>;
    }
  }
}

/// Transforms some channels of some tiles: `Side` pixels along a tile, by `transform`. Channels behind them are zero up
/// to a whole vector.
template <class T, int Side, class Transform>
[[gnu::always_inline]] inline void transform_tiles(const Images<T>& from, const TileGrid& grid, Range tiles,
                                                   Range channels, const TileMatrices<T>& to,
                                                   const Transform& transform) {
  const Index step = to.step;  // a copy: what is stored might alias the original
  T* row = to.data;
  for (Index tile = tiles.begin; tile < tiles.end; ++tile, row += to.pitch) {
    const T* pixel[Side][Side];
    find_pixels(from, tile_place(grid, tile), channels.begin, pixel);
    for (Index c = 0; c < channels.size(); c += lanes<T>) {
      T* const at = row + c;
      const auto store = [=](int r, int s, simd::Vector<T> value) {
        simd::store<T>(at + (r * winograd_in + s) * step, value);
      };
      if (c + lanes<T> <= channels.size()) {
        transform_both<T, Side, winograd_in>(
            transform, [&](int r, int s) { return simd::load<T>(pixel[r][s] + c); }, store);
      } else {
        const int count = static_cast<int>(channels.size() - c);
        transform_both<T, Side, winograd_in>(
            transform, [&](int r, int s) { return simd::load_partial<T>(pixel[r][s] + c, count); }, store);
      }
    }
  }
}

/// B^T d B of the patches that tiles of outputs read.
template <class T>
void transform_patches(const Images<T>& x, const TileGrid& grid, Range tiles, Range channels,
                       const TileMatrices<T>& to) {
  transform_tiles<T, winograd_in>(x, grid, tiles, channels, to,
                                  [](const auto& from, auto& result) { transform_input<T>(from, result); });
}

/// A dy A^T of tiles of an output's gradient.
template <class T>
void transform_output_gradients(const Images<T>& dy, const TileGrid& grid, Range tiles, Range channels,
                                const TileMatrices<T>& to) {
  transform_tiles<T, winograd_out>(dy, grid, tiles, channels, to,
                                   [](const auto& from, auto& result) { transform_output_gradient<T>(from, result); });
}

/// Asks for the memory of tiles that come next, `first` pixels down and to the right of where they begin and as many as
/// they have outputs: what is above and to the left has been read with the tiles there. Transforming waits for memory,
/// multiplying does not.
template <class T, bool Write>
void prefetch_tile(const Images<T>& from, const TilePlace& place, Index first, Range channels) {
  constexpr Index line = 64 / static_cast<Index>(sizeof(T));
  const Index col = larger(0, place.col + first - from.pad_left);
  const Index cols = smaller(from.w, place.col + first - from.pad_left + winograd_out) - col;
  for (Index i = 0; i < winograd_out; ++i) {
    const Index row = place.row + i + first - from.pad_top;
    if (row < 0 || row >= from.h) continue;
    const T* pixel = from.data + ((place.image * from.h + row) * from.w + col) * from.channels;
    for (Index j = 0; j < cols; ++j, pixel += from.channels) {
      for (Index c = channels.begin; c < channels.end; c += line) __builtin_prefetch(pixel + c, Write, 2);
    }
  }
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
