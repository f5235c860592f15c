#pragma once

// Convolution with output pixels in the lanes of vectors, for kernel files. If output channels leave many lanes
// empty (12 of 16, say), it pays to transpose the input to channels-first, a band of rows at a time: then neighbouring
// pixels of one channel fill a vector, any number of output channels fills the registers, and the weights are the
// scalars.

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/kernels/conv2d_problem.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr int most_outputs = simd::registers == 32 ? 12 : 6;  // output channels in a tile
constexpr int most_pixel_vectors = simd::registers == 32 ? 2 : 1;

/// How a problem is cut: into bands of `rows` whole output rows. The scratch holds the band's input rows as
/// (row, channel, pitch) behind `left` more elements. Column 0 of each channel is aligned; the zeros to the right of
/// one channel are also those to the left of the next.
struct PixelTiling {
  Index left, pitch;
  Index rows;  // 0: this kernel is not for this problem
};

/// The input columns that have a part in the output: [0, ...).
template <class T>
Index columns_read(const Problem<T>& p) {
  return smaller(p.w_in, p.w_out + p.kernel_w - 1 - p.pad_left);
}

template <class T>
PixelTiling choose_pixel_tiling(const Problem<T>& p) {
  constexpr Index size = lanes<T>;
  PixelTiling t = {};
  if (p.stride_h != 1 || p.stride_w != 1 || p.pad_left < 0 || p.pad_left > size || columns_read(p) < 1) return t;
  t.left = size;
  t.pitch = round_up(larger(columns_read(p) + p.pad_left, p.w_out + p.kernel_w - 1 - p.pad_left), size);
  // Vectors may reach over the end of the last row.
  const Index capacity = scratch_bytes / static_cast<Index>(sizeof(T)) - t.left - 2 * size - p.kernel_w;
  const Index most_rows = smaller(p.h_out, larger(1, p.n * p.h_out / 16));
  const Index rows = smaller(most_rows, capacity / (p.c_in * t.pitch) - p.kernel_h + 1);
  t.rows = rows < 1 ? 0 : ceil_div(p.h_out, ceil_div(p.h_out, rows));
  return t;
}

/// Compares the lanes that the two kernels would compute, the transposition included.
template <class T>
bool prefer_pixels(const Problem<T>& p) {
  const PixelTiling t = choose_pixel_tiling(p);
  if (t.rows == 0 || p.kernel_h * p.kernel_w * p.c_in < 64) return false;
  return round_up(p.w_out, lanes<T>) * p.c_out * 9 < p.w_out * round_up(p.c_out, lanes<T>) * 8;
}

/// The output channels of a tile that starts at channel `o`: a number for which there is a tile.
inline int outputs_at(Index o, Index c_out) {
  const Index left = c_out - o;
  if (left >= most_outputs) return most_outputs;
  return left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/// The weights as (block of output channels, tap row, tap, input channel, output channel of the block).
template <class T>
void pack_pixel_weights(const Problem<T>& p, const WeightView<T>& view) {
  T* to = p.packed;
  for (Index o = 0; o < p.c_out;) {
    const int outputs = outputs_at(o, p.c_out);
    for (Index tap = 0; tap < p.kernel_h * p.kernel_w; ++tap) {
      const T* from = view.w + o * view.o_step + tap / p.kernel_w * view.r_step + tap % p.kernel_w * view.s_step;
      for (Index c = 0; c < p.c_in; ++c) {
        for (int i = 0; i < outputs; ++i) *to++ = from[i * view.o_step + c * view.c_step];
      }
    }
    o += outputs;
  }
}

/// Transposes `pixels` pixels of `channels` channels each, at `from`, to rows of `pitch` pixels at `to`.
template <class T>
void transpose_row(const T* from, Index pixels, Index channels, T* to, Index pitch) {
  constexpr Index size = lanes<T>;
  for (Index pixel = 0; pixel < pixels; pixel += size) {
    const int width = static_cast<int>(smaller(size, pixels - pixel));
    for (Index c = 0; c < channels; c += size) {
      const int height = static_cast<int>(smaller(size, channels - c));
      simd::transpose_block(from + pixel * channels + c, channels, width, height, to + c * pitch + pixel, pitch);
    }
  }
}

/// Fills the scratch for a band, from `to` on: input rows as far as they exist, see PixelTiling.
template <class T>
void transpose_input(const Problem<T>& p, const Band& band, Index pitch, T* to) {
  constexpr Index size = lanes<T>;
  const Index first = band.rows.begin - p.pad_top;
  const Range rows = intersect({first, band.rows.end - p.pad_top + p.kernel_h - 1}, {0, p.h_in});
  const Index cols = columns_read(p);
  const simd::Vector<T> nothing = {};
  for (Index row = rows.begin; row < rows.end; ++row) {
    T* at = to + (row - first) * p.c_in * pitch;
    for (Index i = 1; i <= p.pad_left; ++i) at[-i] = T{0};
    for (Index c = 0; c < p.c_in; ++c) {
      // Whole vectors of zeros, in ascending order: what they cover too much is written only afterwards.
      T* right = at + c * pitch + cols;
      simd::store<T>(right, nothing);
      for (Index i = size; i < pitch - cols; i += size) simd::store<T>(right + i, nothing);
    }
    transpose_row<T>(p.x + (band.image * p.h_in + row) * p.w_in * p.c_in, cols, p.c_in, at, pitch);
  }
}

/// Writes up to a vector of pixels of one tile, which are in lanes, to y.
template <class T, int Outputs>
[[gnu::always_inline]] inline void store_pixels(const simd::Vector<T> (&sum)[Outputs], T* y, Index y_pixel, int pixels,
                                                bool accumulate) {
  constexpr int size = lanes<T>;
#pragma GCC unroll 8
  for (int begin = 0; begin < Outputs; begin += size) {
    simd::Vector<T> block[size] = {};
    const int count = Outputs - begin < size ? Outputs - begin : size;
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) block[i] = sum[begin + i];
    simd::transpose<T>(block);
#pragma GCC unroll 16
    for (int i = 0; i < size; ++i) {
      if (i >= pixels) break;
      T* to = y + i * y_pixel + begin;
      if (accumulate) block[i] += simd::load_partial<T>(to, count);
      simd::store_partial<T>(to, block[i], count);
    }
  }
}

/// The constants of all tiles of a problem.
struct PixelTileShape {
  Index channels, pitch, taps;
  Index y_pixel;
  bool accumulate;
};

/// y[pixel, output] (+)= the sum over tap rows, taps and input channels, for `pixels` pixels: no more than the vectors
/// hold.
template <class T, int Outputs, int Vectors>
[[gnu::noinline]] void pixel_tile(const PixelTileShape& shape, const T* x, Index tap_rows, const T* w, T* y,
                                  Index pixels) {
  using V = simd::Vector<T>;
  constexpr int size = lanes<T>;
  V sum[Vectors][Outputs] = {};
  for (Index row = 0; row < tap_rows; ++row, x += shape.channels * shape.pitch) {
    for (Index tap = 0; tap < shape.taps; ++tap) {
      const T* from = x + tap;
      for (Index c = 0; c < shape.channels; ++c, from += shape.pitch, w += Outputs) {
        V vector[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) vector[v] = simd::load<T>(from + v * size);
#pragma GCC unroll 16
        for (int i = 0; i < Outputs; ++i) {
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) sum[v][i] = simd::multiply_add<T>(vector[v], w[i], sum[v][i]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    const int count = static_cast<int>(smaller(size, pixels - v * size));
    store_pixels<T, Outputs>(sum[v], y + v * size * shape.y_pixel, shape.y_pixel, count, shape.accumulate);
  }
}

/// One row of output pixels.
template <class T, int Outputs>
void pixel_row(const PixelTileShape& shape, const T* x, Index tap_rows, const T* w, T* y, Index pixels) {
  constexpr int size = lanes<T>;
  while (pixels > 0) {
    const bool several = most_pixel_vectors > 1 && pixels > size;
    if (several) {
      pixel_tile<T, Outputs, most_pixel_vectors>(shape, x, tap_rows, w, y, pixels);
    } else {
      pixel_tile<T, Outputs, 1>(shape, x, tap_rows, w, y, pixels);
    }
    const Index done = several ? most_pixel_vectors * size : size;
    x += done;
    y += done * shape.y_pixel;
    pixels -= done;
  }
}

/// Asks for the input row that the band after this one transposes while this one is `row` rows into computing: there is
/// nothing that a transposition could overlap its cache misses with.
template <class T>
void prefetch_input(const Problem<T>& p, const Band& band, Index row) {
  const Index next = band.image * p.h_in + row + band.rows.size() + p.kernel_h - 1 - p.pad_top;
  if (next < 0 || next >= p.n * p.h_in) return;
  const T* from = p.x + next * p.w_in * p.c_in;
  for (Index i = 0; i < p.w_in * p.c_in; i += 64 / static_cast<Index>(sizeof(T))) __builtin_prefetch(from + i, 0, 2);
}

/// All output channels of a band.
template <class T>
void convolve_pixel_band(const Problem<T>& p, const Band& band, const PixelTiling& tiling, T* scratch) {
  const Index pitch = tiling.pitch;
  transpose_input<T>(p, band, pitch, scratch + tiling.left);
  const PixelTileShape shape = {p.c_in, pitch, p.kernel_w, p.y_pixel, p.accumulate};
  const T* weights = p.packed;
  for (Index o = 0; o < p.c_out;) {
    const int outputs = outputs_at(o, p.c_out);
    const Index w_row = p.kernel_w * p.c_in * outputs;
    for (Index row = band.rows.begin; row < band.rows.end; ++row) {
      if (o == 0) prefetch_input(p, band, row);
      const Range taps = valid_taps(row, 1, p.pad_top, p.kernel_h, p.h_in);
      const T* x = scratch + tiling.left - p.pad_left + (row - band.rows.begin + taps.begin) * p.c_in * pitch;
      const T* w = weights + taps.begin * w_row;
      T* y = p.y + band.image * p.y_image + row * p.y_row + o;
      switch (outputs) {
        case 12:
          pixel_row<T, most_outputs>(shape, x, taps.size(), w, y, p.w_out);
          break;
        case 6:
          pixel_row<T, 6>(shape, x, taps.size(), w, y, p.w_out);
          break;
        case 4:
          pixel_row<T, 4>(shape, x, taps.size(), w, y, p.w_out);
          break;
        case 2:
          pixel_row<T, 2>(shape, x, taps.size(), w, y, p.w_out);
          break;
        default:
          pixel_row<T, 1>(shape, x, taps.size(), w, y, p.w_out);
          break;
      }
    }
    weights += p.kernel_h * w_row;
    o += outputs;
  }
}

/// The weights are packed.
template <class T>
void convolve_pixels(const Problem<T>& p) {
  const PixelTiling tiling = choose_pixel_tiling(p);
  const Index row_bands = ceil_div(p.h_out, tiling.rows);
  parallel_for(p.n * row_bands, [&](Index task) {
    alignas(64) T scratch[scratch_bytes / sizeof(T)];
    const Index row = task % row_bands * tiling.rows;
    const Band band = {task / row_bands, {row, smaller(row + tiling.rows, p.h_out)}, {0, p.w_out}};
    convolve_pixel_band(p, band, tiling, scratch);
  });
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
