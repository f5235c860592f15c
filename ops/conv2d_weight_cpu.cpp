// The weight gradient of a convolution. For each tap dw[o, c] is a sum over pixels of dy[o] * x[c]: a tile of up to 8
// scalars of one by up to 3 vectors of the other stays in registers while it goes over the pixels of a band.

#include "core/parallel.hpp"
#include "ops/conv2d_plan.hpp"
#include "ops/simd.hpp"

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr int max_vectors = 3;
constexpr Index band_pixels = 256;
constexpr Index columns_bytes = 64 * 1024;  // on the stack: a band's input, gathered, where there are few channels

template <class T>
constexpr int lanes = simd::Simd<T>::lanes;

template <int Vectors>
constexpr int tile_scalars = simd::registers == 32 || Vectors == 1 ? 8 : 4;

/// The two factors of dw at one tap: channels of the one are broadcast, channels of the other fill vectors.
struct Factor {
  Index channels;
  Index image, row, pixel;  // steps in elements
};

/// Pixels to sum over, as the images, rows and columns of the loop.
struct Pixels {
  Index images, rows, cols;
};

/// sum[a][lane] += scalars[pixel, a] * vectors[pixel, lane] over the pixels. `sum` has rows of `sum_row` elements; `first`
/// overwrites it.
template <class T, int Scalars, int Vectors, bool Partial>
[[gnu::noinline]] void tile(const Pixels& pixels, const Factor& a, const Factor& b, const T* scalars, const T* vectors,
                            int last_lanes, T* total, Index total_row, bool first) {
  using V = simd::Vector<T>;
  V sum[Scalars][Vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Scalars; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      sum[i][v] = first ? V{} : simd::load<T>(total + i * total_row + v * lanes<T>);
    }
  }
  for (Index image = 0; image < pixels.images; ++image) {
    for (Index row = 0; row < pixels.rows; ++row) {
      const T* s = scalars + image * a.image + row * a.row;
      const T* from = vectors + image * b.image + row * b.row;
      for (Index col = 0; col < pixels.cols; ++col, s += a.pixel, from += b.pixel) {
        V vector[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          vector[v] = Partial && v == Vectors - 1 ? simd::load_partial<T>(from + v * lanes<T>, last_lanes)
                                                  : simd::load<T>(from + v * lanes<T>);
        }
#pragma GCC unroll 16
        for (int i = 0; i < Scalars; ++i) {
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) sum[i][v] += vector[v] * s[i];
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Scalars; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) simd::store<T>(total + i * total_row + v * lanes<T>, sum[i][v]);
  }
}

template <class T>
using TileFunction = void (*)(const Pixels&, const Factor&, const Factor&, const T*, const T*, int, T*, Index, bool);

template <class T, int Vectors, bool Partial>
TileFunction<T> tile_of(Index scalars) {
  switch (scalars) {
    case 1: return tile<T, 1, Vectors, Partial>;
    case 2: return tile<T, 2, Vectors, Partial>;
    case 3: return tile<T, 3, Vectors, Partial>;
    case 4: return tile<T, 4, Vectors, Partial>;
    default: break;
  }
  if constexpr (tile_scalars<Vectors> == 8) {
    switch (scalars) {
      case 5: return tile<T, 5, Vectors, Partial>;
      case 6: return tile<T, 6, Vectors, Partial>;
      case 7: return tile<T, 7, Vectors, Partial>;
      default: return tile<T, 8, Vectors, Partial>;
    }
  }
  return nullptr;
}

template <class T, int Vectors>
TileFunction<T> tile_of(Index scalars, bool partial) {
  return partial ? tile_of<T, Vectors, true>(scalars) : tile_of<T, Vectors, false>(scalars);
}

/// The sum over the pixels for all channels in `range` of the scalar factor and all of the vector factor.
template <class T>
void outer_product(const Pixels& pixels, const Factor& a, const Factor& b, Range range, const T* scalars,
                   const T* vectors, T* total, bool first) {
  const Index all_vectors = ceil_div(b.channels, lanes<T>);
  const Index total_row = all_vectors * lanes<T>;
  const Index vector_blocks = ceil_div(all_vectors, max_vectors);
  for (Index block = 0; block < vector_blocks; ++block) {
    const Range block_vectors = even_part(all_vectors, block, vector_blocks);
    const Index column = block_vectors.begin * lanes<T>;
    const int last = static_cast<int>(smaller(lanes<T>, b.channels - (block_vectors.end - 1) * lanes<T>));
    const Index most = block_vectors.size() == 1 ? tile_scalars<1> : tile_scalars<max_vectors>;
    const Index scalar_blocks = ceil_div(range.size(), most);
    for (Index i = 0; i < scalar_blocks; ++i) {
      const Range part = even_part(range.size(), i, scalar_blocks);
      const Index s = range.begin + part.begin;
      const bool partial = last < lanes<T>;
      const TileFunction<T> function = block_vectors.size() == 1   ? tile_of<T, 1>(part.size(), partial)
                                       : block_vectors.size() == 2 ? tile_of<T, 2>(part.size(), partial)
                                                                   : tile_of<T, 3>(part.size(), partial);
      function(pixels, a, b, scalars + s, vectors + column, last, total + s * total_row + column, total_row, first);
    }
  }
}

/// A weight gradient, as the kernel sees it.
template <class T>
struct Problem {
  Conv2dGeometry g;
  const T* x;
  const T* dy;
  bool x_fills_vectors;  // else dy does
  bool gather;           // few input channels: treat the input under all taps as the channels of one pixel
  Index band_images, band_rows, band_cols;
};

template <class T>
Index taps(const Problem<T>& p) {
  return p.gather ? 1 : p.g.kernel_h * p.g.kernel_w;
}

template <class T>
Index x_channels(const Problem<T>& p) {
  return p.gather ? p.g.kernel_h * p.g.kernel_w * p.g.c_in : p.g.c_in;
}

template <class T>
Problem<T> make_problem(Conv2dGeometry g, const T* x, const T* dy) {
  Problem<T> p = {};
  const Index kernel = g.kernel_h * g.kernel_w;
  const Index gathered = kernel * g.c_in;
  constexpr Index capacity = columns_bytes / static_cast<Index>(sizeof(T));
  p.gather = kernel > 1 && g.c_in < 6 && gathered * 64 <= capacity;
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
  const Index pixels = p.gather ? smaller(band_pixels, capacity / gathered) : band_pixels;
  p.band_cols = smaller(g.w_out, pixels);
  p.band_rows = smaller(g.h_out, larger(1, pixels / p.band_cols));
  p.band_images = p.gather ? 1 : smaller(g.n, larger(1, pixels / (p.band_cols * p.band_rows)));
  return p;
}

struct Band {
  Range images, rows, cols;
};

template <class T>
Index bands(const Problem<T>& p) {
  return ceil_div(p.g.n, p.band_images) * ceil_div(p.g.h_out, p.band_rows) * ceil_div(p.g.w_out, p.band_cols);
}

template <class T>
Band band_at(const Problem<T>& p, Index index) {
  const Index col_bands = ceil_div(p.g.w_out, p.band_cols);
  const Index row_bands = ceil_div(p.g.h_out, p.band_rows);
  const auto range = [](Index part, Index size, Index total) {
    return Range{part * size, smaller(total, (part + 1) * size)};
  };
  return {range(index / col_bands / row_bands, p.band_images, p.g.n),
          range(index / col_bands % row_bands, p.band_rows, p.g.h_out),
          range(index % col_bands, p.band_cols, p.g.w_out)};
}

/// The input under all taps of each pixel of the band, in the order of a row of w, zeros outside of x.
template <class T>
void gather_columns(const Problem<T>& p, const Band& band, T* to) {
  const Conv2dGeometry& g = p.g;
  const T* image = p.x + band.images.begin * g.h_in * g.w_in * g.c_in;
  for (Index i = band.rows.begin; i < band.rows.end; ++i) {
    for (Index j = band.cols.begin; j < band.cols.end; ++j) {
      for (Index r = 0; r < g.kernel_h; ++r) {
        const Index row = i * g.stride_h + r - g.pad_top;
        const Index run = g.kernel_w * g.c_in;
        const Index col = j * g.stride_w - g.pad_left;
        const Range inside = intersect({0, run}, {-col * g.c_in, (g.w_in - col) * g.c_in});
        const bool row_inside = row >= 0 && row < g.h_in;
        const T* from = image + (row * g.w_in + col) * g.c_in;
        for (Index k = 0; k < run; ++k) to[k] = row_inside && k >= inside.begin && k < inside.end ? from[k] : T{0};
        to += run;
      }
    }
  }
}

/// Adds one band to a partial sum: (tap, scalar channel, vector channel padded to whole vectors).
template <class T>
void add_band(const Problem<T>& p, const Band& band, Range scalar_channels, T* total, bool first, T* columns) {
  const Conv2dGeometry& g = p.g;
  const Factor dy = {g.c_out, g.h_out * g.w_out * g.c_out, g.w_out * g.c_out, g.c_out};
  Factor x = {g.c_in, g.h_in * g.w_in * g.c_in, g.stride_h * g.w_in * g.c_in, g.stride_w * g.c_in};
  if (p.gather) {
    const Index k = x_channels(p);
    x = {k, 0, band.cols.size() * k, k};
    gather_columns(p, band, columns);
  }
  const Factor& a = p.x_fills_vectors ? dy : x;
  const Factor& b = p.x_fills_vectors ? x : dy;
  for (Index tap = 0; tap < taps(p); ++tap) {
    const Index r = tap / g.kernel_w;
    const Index s = tap % g.kernel_w;
    Range rows = band.rows;
    Range cols = band.cols;
    const T* x_at = columns;
    if (!p.gather) {
      rows = intersect(rows, valid_outputs(r, g.stride_h, g.pad_top, g.h_in, g.h_out));
      cols = intersect(cols, valid_outputs(s, g.stride_w, g.pad_left, g.w_in, g.w_out));
      x_at = p.x + band.images.begin * x.image + (rows.begin * g.stride_h + r - g.pad_top) * g.w_in * g.c_in +
             (cols.begin * g.stride_w + s - g.pad_left) * g.c_in;
    }
    const T* dy_at = p.dy + band.images.begin * dy.image + rows.begin * dy.row + cols.begin * dy.pixel;
    const Pixels pixels = {band.images.size(), cols.size() > 0 ? rows.size() : 0, cols.size()};
    outer_product(pixels, a, b, scalar_channels, p.x_fills_vectors ? dy_at : x_at, p.x_fills_vectors ? x_at : dy_at,
                  total, first);
    total += a.channels * round_up(b.channels, lanes<T>);
  }
}

/// dw (+)= the sum of the chunks' partial sums, for one tap and one channel of the scalar factor.
template <class T>
void reduce_row(const Problem<T>& p, Index tap, Index scalar, const T* partial, Index partial_step, Index chunks, T* dw,
                bool accumulate) {
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

}  // namespace

template <class T>
void conv2d_grad_weight(const Conv2dGeometry& g, const T* x, const T* dy, T* dw, bool accumulate, T* workspace) {
  const Problem<T> p = make_problem(g, x, dy);
  const WeightGradientSplit split = split_weight_gradient(g);
  const Index scalar_channels = p.x_fills_vectors ? g.c_out : x_channels(p);
  const Index vector_row = round_up(p.x_fills_vectors ? x_channels(p) : g.c_out, lanes<T>);
  const Index all_bands = bands(p);
  parallel_for(split.chunks * split.groups, [&](Index task) {
    alignas(64) T columns[columns_bytes / sizeof(T)];
    const Index chunk = task / split.groups;
    const Range group = even_part(scalar_channels, task % split.groups, split.groups);
    const Range mine = even_part(all_bands, chunk, split.chunks);
    // A chunk without a band still has to overwrite its sum.
    if (mine.size() == 0) return add_band(p, {{0, 0}, {0, 0}, {0, 0}}, group, workspace + chunk * split.partial, true, columns);
    for (Index band = mine.begin; band < mine.end; ++band) {
      add_band(p, band_at(p, band), group, workspace + chunk * split.partial, band == mine.begin, columns);
    }
  });
  parallel_for(taps(p) * scalar_channels, [&](Index task) {
    reduce_row(p, task / scalar_channels, task % scalar_channels, workspace + task * vector_row, split.partial,
               split.chunks, dw, accumulate);
  });
}

template void conv2d_grad_weight<float>(const Conv2dGeometry&, const float*, const float*, float*, bool, float*);
template void conv2d_grad_weight<double>(const Conv2dGeometry&, const double*, const double*, double*, bool, double*);

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
