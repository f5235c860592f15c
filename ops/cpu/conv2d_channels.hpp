#pragma once

// Convolution with output channels in the lanes of vectors, for kernel files: a tile of up to 8 output pixels by up to
// 3 vectors of output channels stays in registers while all taps and input channels are added to it. In a channels-last
// image the elements under one row of taps are contiguous, so the inner loop runs over kernel_w * c_in of them at once.

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/kernels/conv2d_problem.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr Index weight_block_bytes = 384 * 1024;   // packed weights that one pass over a band reads again and again
constexpr Index shared_weight_bytes = 256 * 1024;  // more than that are not for one task to go through
constexpr int max_vectors = 3;                     // of output channels in a tile

/// Pixels in a tile of `Vectors` vectors: accumulators, weights and one input must fit the registers.
template <int Vectors>
constexpr int tile_pixels = simd::registers == 32 || Vectors == 1 ? 8 : 4;

/// How a problem is cut so that what is read again stays in the caches.
struct Tiling {
  Index groups;      // of blocks of output vectors; a task is one group for one band
  Index rows, cols;  // output pixels of a band
  Index tap_rows;    // added in one pass over a band
  Index c_blocks;    // of input channels
  bool copy;         // read a padded copy of the band's input instead of x itself
  bool by_tap;       // not even a single pixel's input fits the scratch: add one tap at a time to y
};

template <class T>
Index output_vectors(const Problem<T>& p) {
  return ceil_div(p.c_out, lanes<T>);
}

template <class T>
Index output_blocks(const Problem<T>& p) {
  return ceil_div(output_vectors(p), max_vectors);
}

template <class T>
Range output_block(const Problem<T>& p, Index block) {
  return even_part(output_vectors(p), block, output_blocks(p));
}

/// By how many columns the last tap of the last column is to the right of x.
template <class T>
Index overhang(const Problem<T>& p) {
  return (p.w_out - 1) * p.stride_w + p.kernel_w - p.pad_left - p.w_in;
}

template <class T>
Tiling choose_tiling(const Problem<T>& p) {
  constexpr Index size = static_cast<Index>(sizeof(T));
  constexpr Index capacity = scratch_bytes / size;
  constexpr Index weight_limit = weight_block_bytes / size / (max_vectors * lanes<T>);
  const auto extent = [](Index outputs, Index stride, Index kernel) { return (outputs - 1) * stride + kernel; };
  Tiling t = {};
  t.tap_rows = larger(1, smaller(p.kernel_h, weight_limit / (p.kernel_w * p.c_in)));
  Index most_channels = larger(16, weight_limit / p.kernel_w);
  // Padding by one column concerns only the first tap of the first and the last tap of the last pixel: tiles leave them
  // out. (For rows above and below they leave out whole rows of taps.) A run over some of the channels needs a copy.
  const Index most_padding = larger(p.pad_left, overhang(p));
  t.copy = p.kernel_w == 1 ? most_padding > 0 : most_padding > 1 || most_channels < p.c_in;
  const Index few_cols = smaller(p.w_out, 8);
  if (t.copy) {
    most_channels = smaller(most_channels, capacity / (p.kernel_h * extent(few_cols, p.stride_w, p.kernel_w)));
    if (most_channels == 0) {
      t.by_tap = true;
      return t;
    }
  }
  t.c_blocks = ceil_div(p.c_in, most_channels);
  const Index channels = ceil_div(p.c_in, t.c_blocks);
  const auto input_size = [&](Index rows, Index cols) {
    return extent(rows, p.stride_h, p.kernel_h) * extent(cols, p.stride_w, p.kernel_w) * channels;
  };
  t.cols = p.w_out;
  while (input_size(1, t.cols) > capacity && t.cols > few_cols) {
    t.cols = larger(few_cols, round_up(ceil_div(t.cols, 2), 8));
  }
  const Index weights = p.kernel_h * p.kernel_w * p.c_in * output_vectors(p) * lanes<T> * size;
  t.groups = weights > shared_weight_bytes ? output_blocks(p) : 1;
  const Index most_rows = p.n * p.h_out * ceil_div(p.w_out, t.cols) * t.groups / 32;  // for 32 tasks or more
  t.rows = 1;
  while (t.rows < smaller(p.h_out, most_rows) && input_size(t.rows + 1, t.cols) <= capacity) ++t.rows;
  return t;
}

/// to[channel][output], rows of `width` elements: zeros where there are no more outputs.
template <class T>
void pack_tap(const WeightView<T>& view, const T* from, Index channels, Index outputs, T* to, Index width) {
  if (view.o_step == 1) {
    for (Index c = 0; c < channels; ++c) {
      for (Index o = 0; o < outputs; ++o) to[c * width + o] = from[c * view.c_step + o];
      for (Index o = outputs; o < width; ++o) to[c * width + o] = T{0};
    }
    return;
  }
  if (outputs < width) std::memset(to, 0, static_cast<std::size_t>(channels * width) * sizeof(T));
  for (Index o = 0; o < outputs; o += lanes<T>) {
    for (Index c = 0; c < channels; c += lanes<T>) {  // c_step is 1: it is w's last dimension or o is
      simd::transpose_block(from + o * view.o_step + c, view.o_step, static_cast<int>(smaller(lanes<T>, outputs - o)),
                            static_cast<int>(smaller(lanes<T>, channels - c)), to + c * width + o, width);
    }
  }
}

/// Packs the weights: for each block of input channels and block of output vectors (tap row, tap, channel, lane).
template <class T>
void pack_weights(const Problem<T>& p, const WeightView<T>& view, const Tiling& tiling) {
  const Index taps = p.kernel_h * p.kernel_w;
  const Index blocks = output_blocks(p);
  parallel_for(tiling.c_blocks * blocks, [&](Index task) {
    const Range channels = even_part(p.c_in, task / blocks, tiling.c_blocks);
    const Range vectors = output_block(p, task % blocks);
    const Index width = vectors.size() * lanes<T>;
    const Index exist = smaller(width, p.c_out - vectors.begin * lanes<T>);
    T* to = p.packed + taps * lanes<T> * (channels.begin * output_vectors(p) + channels.size() * vectors.begin);
    for (Index tap = 0; tap < taps; ++tap, to += channels.size() * width) {
      const T* from = view.w + tap / p.kernel_w * view.r_step + tap % p.kernel_w * view.s_step +
                      channels.begin * view.c_step + vectors.begin * lanes<T> * view.o_step;
      pack_tap(view, from, channels.size(), exist, to, width);
    }
  });
}

/// The constants of all tiles of a band.
struct TileShape {
  Index x_pixel, x_row;  // steps between output pixels' inputs and between tap rows, in elements
  Index run;             // contiguous elements under one row of taps
  Index tap;             // of which those under one tap
  Index y_pixel;
  int last_lanes;   // lanes of the last vector that exist in y
  bool accumulate;  // add to y
  bool prefetch;    // x and y of the next tile: with few taps there is little time to wait for them
};

/// sum[pixel][vector] += x[pixel, k] * w[k, vector] for k in [begin, end) and the pixels First to Last - 1.
template <class T, int First, int Last, int Pixels, int Vectors>
[[gnu::always_inline]] inline void add_run(simd::Vector<T> (&sum)[Pixels][Vectors], const T* const (&x)[Pixels],
                                           Index begin, Index end, const T* w) {
  for (Index k = begin; k < end; ++k) {
    simd::Vector<T> weight[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) weight[v] = simd::load<T>(w + (k * Vectors + v) * lanes<T>);
#pragma GCC unroll 16
    for (int i = First; i < Last; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] = simd::multiply_add<T>(weight[v], x[i][k], sum[i][v]);
    }
  }
}

/// y[pixel, vector] (+)= sum over tap rows and the run of x * w, but for the first tap of the first pixel where
/// `left_edge` and the last tap of the last pixel where `right_edge`: they are outside of x.
template <class T, int Pixels, int Vectors>
[[gnu::noinline]] void tile(const TileShape& shape, bool left_edge, bool right_edge, const T* x, Index tap_rows,
                            const T* w, T* y) {
  using V = simd::Vector<T>;
  V sum[Pixels][Vectors] = {};
  const Index begin = left_edge ? shape.tap : 0;
  const Index end = right_edge ? shape.run - shape.tap : shape.run;
  for (Index row = 0; row < tap_rows; ++row, x += shape.x_row, w += shape.run * Vectors * lanes<T>) {
    const T* pixel[Pixels];
#pragma GCC unroll 16
    for (int i = 0; i < Pixels; ++i) pixel[i] = x + i * shape.x_pixel;
    if constexpr (Pixels > 1) {
      if (left_edge) add_run<T, 1, Pixels>(sum, pixel, 0, begin, w);
    }
    if (shape.prefetch) {
      constexpr Index line = 64 / sizeof(T);
      for (Index part = begin; part < end; part += line) {
#pragma GCC unroll 16
        for (int i = 0; i < Pixels; ++i) __builtin_prefetch(pixel[i] + part + Pixels * shape.x_pixel);
        add_run<T, 0, Pixels>(sum, pixel, part, smaller(part + line, end), w);
      }
    } else {
      add_run<T, 0, Pixels>(sum, pixel, begin, end, w);
    }
    if constexpr (Pixels > 1) {
      if (right_edge) add_run<T, 0, Pixels - 1>(sum, pixel, end, shape.run, w);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Pixels; ++i) {
    T* to = y + i * shape.y_pixel;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v, to += lanes<T>) {
      if (shape.prefetch) __builtin_prefetch(to + Pixels * shape.y_pixel, 1);
      if (v < Vectors - 1 || shape.last_lanes == lanes<T>) {
        simd::store<T>(to, shape.accumulate ? sum[i][v] + simd::load<T>(to) : sum[i][v]);
      } else {
        const V old = shape.accumulate ? simd::load_partial<T>(to, shape.last_lanes) : V{};
        simd::store_partial<T>(to, sum[i][v] + old, shape.last_lanes);
      }
    }
  }
}

/// Consecutive output pixels of one row.
struct Segment {
  Index pixels;
  bool left_edge, right_edge;  // see tile()
};

template <class T>
using TileFunction = void (*)(const TileShape&, bool, bool, const T*, Index, const T*, T*);

template <class T, int Vectors>
TileFunction<T> tile_of(Index pixels) {
  switch (pixels) {
    case 1:
      return tile<T, 1, Vectors>;
    case 2:
      return tile<T, 2, Vectors>;
    case 3:
      return tile<T, 3, Vectors>;
    case 4:
      return tile<T, 4, Vectors>;
    default:
      break;
  }
  if constexpr (tile_pixels<Vectors> == 8) {
    switch (pixels) {
      case 5:
        return tile<T, 5, Vectors>;
      case 6:
        return tile<T, 6, Vectors>;
      case 7:
        return tile<T, 7, Vectors>;
      default:
        return tile<T, 8, Vectors>;
    }
  }
  return nullptr;
}

/// Cuts the segment into tiles as even as can be, the larger ones first.
template <class T, int Vectors>
void tile_segment(const TileShape& shape, const Segment& segment, const T* x, Index tap_rows, const T* w, T* y) {
  const Index tiles = ceil_div(segment.pixels, tile_pixels<Vectors>);
  const Index size = segment.pixels / tiles;
  const Index larger_tiles = segment.pixels - size * tiles;  // have one pixel more
  TileFunction<T> function = tile_of<T, Vectors>(size + 1);
  for (Index i = 0; i < tiles; ++i) {
    if (i == larger_tiles) function = tile_of<T, Vectors>(size);
    function(shape, segment.left_edge && i == 0, segment.right_edge && i == tiles - 1, x, tap_rows, w, y);
    const Index pixels = i < larger_tiles ? size + 1 : size;
    x += pixels * shape.x_pixel;
    y += pixels * shape.y_pixel;
  }
}

/// The input that a band reads, for some of the channels: in x or in a padded copy. Element (row, col, c) of x is at
/// origin + row * row_step + col * pixel_step + c.
template <class T>
struct Input {
  const T* origin;
  Index row_step, pixel_step;
  bool padded;
};

template <class T>
Input<T> copy_input(const Problem<T>& p, const Band& band, Range channels, T* scratch) {
  const Index width = channels.size();
  const Range rows = {band.rows.begin * p.stride_h - p.pad_top,
                      (band.rows.end - 1) * p.stride_h - p.pad_top + p.kernel_h};
  const Range cols = {band.cols.begin * p.stride_w - p.pad_left,
                      (band.cols.end - 1) * p.stride_w - p.pad_left + p.kernel_w};
  const Range inside_rows = intersect(rows, {0, p.h_in});
  const Range inside_cols = intersect(cols, {0, p.w_in});
  const auto bytes = [](Index elements) { return static_cast<std::size_t>(elements) * sizeof(T); };
  const Index left = inside_cols.size() > 0 ? inside_cols.begin - cols.begin : cols.size();
  for (Index row = inside_rows.begin; row < inside_rows.end; ++row) {
    T* to = scratch + (row - rows.begin) * cols.size() * width;
    const T* from = p.x + ((band.image * p.h_in + row) * p.w_in + inside_cols.begin) * p.c_in + channels.begin;
    std::memset(to, 0, bytes(left * width));
    to += left * width;
    if (width == p.c_in) {
      std::memcpy(to, from, bytes(inside_cols.size() * width));
    } else {
      for (Index col = 0; col < inside_cols.size(); ++col) {
        std::memcpy(to + col * width, from + col * p.c_in, bytes(width));
      }
    }
    to += inside_cols.size() * width;
    std::memset(to, 0, bytes((cols.size() - left - inside_cols.size()) * width));
  }
  return {scratch - (rows.begin * cols.size() + cols.begin) * width, cols.size() * width, width, true};
}

/// Adds the given input channels' part to the given blocks of output channels of a band.
template <class T>
void convolve_band(const Problem<T>& p, const Tiling& tiling, const Band& band, Range blocks, Range channels,
                   const Input<T>& input) {
  const Segment segment = {band.cols.size(), !input.padded && p.pad_left > 0 && band.cols.begin == 0,
                           !input.padded && overhang(p) > 0 && band.cols.end == p.w_out};
  TileShape shape = {};
  shape.x_pixel = p.stride_w * input.pixel_step;
  shape.x_row = input.row_step;
  shape.run = p.kernel_w * channels.size();
  shape.tap = channels.size();
  shape.y_pixel = p.y_pixel;
  shape.prefetch =
      p.kernel_h == 1 && p.c_in >= 48 &&
      p.n * (p.h_in * p.w_in * p.c_in + p.h_out * p.w_out * p.c_out) * static_cast<Index>(sizeof(T)) > prefetch_bytes;
  const T* packed = p.packed + p.kernel_h * p.kernel_w * channels.begin * output_vectors(p) * lanes<T>;
  for (Index block = blocks.begin; block < blocks.end; ++block) {
    const Range vectors = output_block(p, block);
    const Index w_row = shape.run * vectors.size() * lanes<T>;
    const T* weights = packed + p.kernel_h * shape.run * vectors.begin * lanes<T>;
    shape.last_lanes = static_cast<int>(smaller(lanes<T>, p.c_out - (vectors.end - 1) * lanes<T>));
    for (Index r = 0; r < p.kernel_h; r += tiling.tap_rows) {
      shape.accumulate = p.accumulate || channels.begin > 0 || r > 0;
      for (Index row = band.rows.begin; row < band.rows.end; ++row) {
        const Range taps =
            intersect(valid_taps(row, p.stride_h, p.pad_top, p.kernel_h, p.h_in), {r, r + tiling.tap_rows});
        if (taps.size() == 0 && r > 0) continue;
        const T* x = input.origin + (row * p.stride_h - p.pad_top + taps.begin) * input.row_step +
                     (band.cols.begin * p.stride_w - p.pad_left) * input.pixel_step;
        const T* w = weights + taps.begin * w_row;
        T* y = p.y + band.image * p.y_image + row * p.y_row + band.cols.begin * p.y_pixel + vectors.begin * lanes<T>;
        switch (vectors.size()) {
          case 1:
            tile_segment<T, 1>(shape, segment, x, taps.size(), w, y);
            break;
          case 2:
            tile_segment<T, 2>(shape, segment, x, taps.size(), w, y);
            break;
          default:
            tile_segment<T, 3>(shape, segment, x, taps.size(), w, y);
            break;
        }
      }
    }
  }
}

/// The weights are packed.
template <class T>
void convolve_channels(const Problem<T>& p, const Tiling& tiling) {
  const Index row_bands = ceil_div(p.h_out, tiling.rows);
  const Index col_bands = ceil_div(p.w_out, tiling.cols);
  const Index bands = p.n * row_bands * col_bands;
  parallel_for(tiling.groups * bands, [&](Index task) {
    alignas(64) T scratch[scratch_bytes / sizeof(T)];
    const Range blocks = even_part(output_blocks(p), task / bands, tiling.groups);
    const Index row = task / col_bands % row_bands * tiling.rows;
    const Index col = task % col_bands * tiling.cols;
    const Band band = {task % bands / col_bands / row_bands,
                       {row, smaller(row + tiling.rows, p.h_out)},
                       {col, smaller(col + tiling.cols, p.w_out)}};
    for (Index block = 0; block < tiling.c_blocks; ++block) {
      const Range channels = even_part(p.c_in, block, tiling.c_blocks);
      const Input<T> input = tiling.copy ? copy_input(p, band, channels, scratch)
                                         : Input<T>{p.x + band.image * p.h_in * p.w_in * p.c_in + channels.begin,
                                                    p.w_in * p.c_in, p.c_in, false};
      convolve_band(p, tiling, band, blocks, channels, input);
    }
  });
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
