#pragma once

// The weight gradient of a convolution, for kernel files. For each tap dw[o, c] is a sum over pixels of dy[o] * x[c].

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/cpu/conv2d_outer.hpp>
#include <palimpsest/ops/cpu/simd.hpp>
#include <palimpsest/ops/kernels/conv2d_partition.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr Index band_pixels = 256;
constexpr Index padded_bytes = 64 * 1024;  // on the stack: a band's input, where there are few channels

/// A weight gradient, as the kernel sees it.
template <class T>
struct WeightGradient {
  Conv2dGeometry g;
  const T* x;
  const T* dy;
  bool x_fills_vectors;  // else dy does
  bool tap_rows;  // few input channels: a row of taps, contiguous in a padded copy of x, is one tap of more channels
  Index band_images, band_rows, band_cols;
};

template <class T>
Index taps(const WeightGradient<T>& p) {
  return p.tap_rows ? p.g.kernel_h : p.g.kernel_h * p.g.kernel_w;
}

template <class T>
Index x_channels(const WeightGradient<T>& p) {
  return p.tap_rows ? p.g.kernel_w * p.g.c_in : p.g.c_in;
}

/// Channels of the factor that is broadcast.
template <class T>
Index scalars(const WeightGradient<T>& p) {
  return p.x_fills_vectors ? p.g.c_out : x_channels(p);
}

/// Rows or columns of x, the padding included, that `outputs` rows or columns of y depend on.
constexpr Index input_extent(Index outputs, Index stride, Index kernel) { return (outputs - 1) * stride + kernel; }

template <class T>
WeightGradient<T> make_problem(Conv2dGeometry g, const T* x, const T* dy) {
  WeightGradient<T> p = {};
  const Index kernel = g.kernel_h * g.kernel_w;
  const auto padded = [&](Index rows, Index cols) {
    return input_extent(rows, g.stride_h, g.kernel_h) * input_extent(cols, g.stride_w, g.kernel_w) * g.c_in;
  };
  constexpr Index capacity = padded_bytes / static_cast<Index>(sizeof(T));
  p.tap_rows = g.kernel_w > 1 && g.c_in < 6 && padded(1, smaller(g.w_out, 8)) <= capacity;
  const bool pointwise = kernel == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top == 0 && g.pad_left == 0 &&
                         g.h_in == g.h_out && g.w_in == g.w_out;
  if (pointwise) {
    g.w_in = g.w_out = g.n * g.h_in * g.w_in;
    g.n = g.h_in = g.h_out = 1;
  }
  p.g = g;
  p.x = x;
  p.dy = dy;
  const Index channels = x_channels(p);
  p.x_fills_vectors = round_up(channels, lanes<T>) * g.c_out <= round_up(g.c_out, lanes<T>) * channels;
  p.band_cols = smaller(g.w_out, band_pixels);
  p.band_rows = smaller(g.h_out, larger(1, band_pixels / p.band_cols));
  p.band_images = p.tap_rows ? 1 : smaller(g.n, larger(1, band_pixels / (p.band_cols * p.band_rows)));
  if (p.tap_rows) {
    while (p.band_rows > 1 && padded(p.band_rows, p.band_cols) > capacity) --p.band_rows;
    while (padded(p.band_rows, p.band_cols) > capacity) p.band_cols = ceil_div(p.band_cols, 2);
  }
  return p;
}

struct PixelBand {
  Range images, rows, cols;
};

template <class T>
Index bands(const WeightGradient<T>& p) {
  return ceil_div(p.g.n, p.band_images) * ceil_div(p.g.h_out, p.band_rows) * ceil_div(p.g.w_out, p.band_cols);
}

template <class T>
PixelBand band_at(const WeightGradient<T>& p, Index index) {
  const Index col_bands = ceil_div(p.g.w_out, p.band_cols);
  const Index row_bands = ceil_div(p.g.h_out, p.band_rows);
  const auto range = [](Index part, Index size, Index total) {
    return Range{part * size, smaller(total, (part + 1) * size)};
  };
  return {range(index / col_bands / row_bands, p.band_images, p.g.n),
          range(index / col_bands % row_bands, p.band_rows, p.g.h_out),
          range(index % col_bands, p.band_cols, p.g.w_out)};
}

/// Copies the input of a band of one image, with zeros where it is outside of x. Dense rows.
template <class T>
void copy_padded(const WeightGradient<T>& p, const PixelBand& band, T* to) {
  const Conv2dGeometry& g = p.g;
  const auto bytes = [](Index elements) { return static_cast<std::size_t>(elements) * sizeof(T); };
  const Index first_row = band.rows.begin * g.stride_h - g.pad_top;
  const Index first_col = band.cols.begin * g.stride_w - g.pad_left;
  const Index rows = input_extent(band.rows.size(), g.stride_h, g.kernel_h);
  const Index cols = input_extent(band.cols.size(), g.stride_w, g.kernel_w);
  const Range inside = intersect({first_col, first_col + cols}, {0, g.w_in});
  const Index left = inside.size() > 0 ? inside.begin - first_col : cols;
  for (Index row = first_row; row < first_row + rows; ++row, to += cols * g.c_in) {
    if (row < 0 || row >= g.h_in) {
      std::memset(to, 0, bytes(cols * g.c_in));
      continue;
    }
    const T* from = p.x + ((band.images.begin * g.h_in + row) * g.w_in + inside.begin) * g.c_in;
    std::memset(to, 0, bytes(left * g.c_in));
    std::memcpy(to + left * g.c_in, from, bytes(inside.size() * g.c_in));
    std::memset(to + (left + inside.size()) * g.c_in, 0, bytes((cols - left - inside.size()) * g.c_in));
  }
}

/// Adds one band to a partial sum with a row of taps at a time, see WeightGradient::tap_rows.
template <class T>
void add_band_by_rows(const WeightGradient<T>& p, const PixelBand& band, Range scalar_channels, T* total, bool first,
                      T* padded) {
  const Conv2dGeometry& g = p.g;
  if (band.images.size() > 0) copy_padded(p, band, padded);
  const Index x_row = input_extent(band.cols.size(), g.stride_w, g.kernel_w) * g.c_in;
  const Factor x = {x_channels(p), 0, g.stride_h * x_row, g.stride_w * g.c_in};
  const Factor dy = {g.c_out, 0, g.w_out * g.c_out, g.c_out};
  const T* dy_at = p.dy + ((band.images.begin * g.h_out + band.rows.begin) * g.w_out + band.cols.begin) * g.c_out;
  const Pixels pixels = {band.images.size(), band.rows.size(), band.cols.size()};
  for (Index r = 0; r < g.kernel_h; ++r) {
    const T* x_at = padded + r * x_row;
    if (p.x_fills_vectors) {
      outer_product(pixels, dy, x, scalar_channels, dy_at, x_at, total, first, Upcoming{});
      total += g.c_out * round_up(x.channels, lanes<T>);
    } else {
      outer_product(pixels, x, dy, scalar_channels, x_at, dy_at, total, first, Upcoming{});
      total += x.channels * round_up(g.c_out, lanes<T>);
    }
  }
}

/// The part of x that the band after this one reads, if this is a 1x1 convolution over one long row of pixels. (dy,
/// with fewer channels as a rule, is read in order, which the hardware foresees.)
template <class T>
Upcoming upcoming_input(const WeightGradient<T>& p, const PixelBand& band, Index scalars) {
  const bool one_row = p.g.n == 1 && p.g.h_out == 1 && p.g.kernel_h * p.g.kernel_w * p.g.stride_w == 1;
  const Index pixel_bytes = p.g.c_in * static_cast<Index>(sizeof(T));
  if (!one_row || p.g.w_in * pixel_bytes < prefetch_bytes || band.cols.size() == 0 || scalars == 0) return {};
  const Index vectors = ceil_div(p.x_fills_vectors ? p.g.c_in : p.g.c_out, lanes<T>);
  const Index tiles = ceil_div(vectors, most_outer_vectors) * ceil_div(scalars, outer_scalars<most_outer_vectors>);
  const auto* x = reinterpret_cast<const char*>(p.x);
  const Index end = smaller(p.g.w_in, band.cols.end + p.band_cols);
  return {x + band.cols.end * pixel_bytes, x + end * pixel_bytes, ceil_div(p.band_cols * pixel_bytes, tiles)};
}

/// Adds one band to a partial sum: (tap, scalar channel, vector channel padded to whole vectors).
template <class T>
void add_band(const WeightGradient<T>& p, const PixelBand& band, Range scalar_channels, T* total, bool first,
              T* padded) {
  if (p.tap_rows) return add_band_by_rows(p, band, scalar_channels, total, first, padded);
  const Conv2dGeometry& g = p.g;
  const Factor dy = {g.c_out, g.h_out * g.w_out * g.c_out, g.w_out * g.c_out, g.c_out};
  const Factor x = {g.c_in, g.h_in * g.w_in * g.c_in, g.stride_h * g.w_in * g.c_in, g.stride_w * g.c_in};
  const Factor& a = p.x_fills_vectors ? dy : x;
  const Factor& b = p.x_fills_vectors ? x : dy;
  for (Index tap = 0; tap < taps(p); ++tap) {
    const Index r = tap / g.kernel_w;
    const Index s = tap % g.kernel_w;
    const Range rows = intersect(band.rows, valid_outputs(r, g.stride_h, g.pad_top, g.h_in, g.h_out));
    const Range cols = intersect(band.cols, valid_outputs(s, g.stride_w, g.pad_left, g.w_in, g.w_out));
    const T* x_at = p.x + band.images.begin * x.image + (rows.begin * g.stride_h + r - g.pad_top) * g.w_in * g.c_in +
                    (cols.begin * g.stride_w + s - g.pad_left) * g.c_in;
    const T* dy_at = p.dy + band.images.begin * dy.image + rows.begin * dy.row + cols.begin * dy.pixel;
    const Pixels pixels = {band.images.size(), cols.size() > 0 ? rows.size() : 0, cols.size()};
    outer_product(pixels, a, b, scalar_channels, p.x_fills_vectors ? dy_at : x_at, p.x_fills_vectors ? x_at : dy_at,
                  total, first, upcoming_input(p, band, scalar_channels.size()));
    total += a.channels * round_up(b.channels, lanes<T>);
  }
}

/// dw (+)= the sum of the chunks' partial sums, for one tap and one channel of the scalar factor.
template <class T>
void reduce_row(const WeightGradient<T>& p, Index tap, Index scalar, const T* partial, Index partial_step, Index chunks,
                T* dw, bool accumulate) {
  const Index channels = x_channels(p);
  const Index all = p.x_fills_vectors ? channels : p.g.c_out;
  const Index dw_row = taps(p) * channels;
  T* to = dw + tap * channels + (p.x_fills_vectors ? scalar * dw_row : scalar);
  const Index step = p.x_fills_vectors ? 1 : dw_row;
  for (Index i = 0; i < all; i += lanes<T>) {
    simd::Vector<T> sum = simd::load<T>(partial + i);
    for (Index chunk = 1; chunk < chunks; ++chunk) sum += simd::load<T>(partial + i + chunk * partial_step);
    const Index count = smaller(lanes<T>, all - i);
    for (Index k = 0; k < count; ++k) {
      T& element = to[(i + k) * step];
      element = accumulate ? element + sum[k] : sum[k];
    }
  }
}

/// Adds up the chunks' partial sums.
template <class T>
void reduce_chunks(const WeightGradient<T>& p, const T* partial, Index partial_step, Index chunks, T* dw,
                   bool accumulate) {
  const Index scalar_channels = scalars(p);
  const Index vector_row = round_up(p.x_fills_vectors ? x_channels(p) : p.g.c_out, lanes<T>);
  parallel_for(taps(p) * scalar_channels, [&](Index task) {
    reduce_row(p, task / scalar_channels, task % scalar_channels, partial + task * vector_row, partial_step, chunks, dw,
               accumulate);
  });
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
