#pragma once

// Sums of outer products over pixels, for kernel files: what a weight gradient is at each tap. A tile of up to 8
// scalars of the one factor by up to 3 vectors of the other stays in registers while it goes over the pixels.

#include <palimpsest/ops/kernels/conv2d_problem.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr int most_outer_vectors = 3;

template <int Vectors>
constexpr int outer_scalars = simd::registers == 32 || Vectors == 1 ? 8 : 4;

/// The two factors of dw at one tap: channels of the one are broadcast, channels of the other fill vectors.
struct Factor {
  Index channels;
  Index image, row, pixel;  // steps in elements
};

/// Pixels to sum over, as the images, rows and columns of the loop.
struct Pixels {
  Index images, rows, cols;
};

/// total[a][lane] (+)= the sum of scalars[pixel, a] * vectors[pixel, lane] over the pixels. `total` has rows of
/// `total_row` elements; `first` overwrites it. Adding only a band's finished sum to it also keeps rounding errors
/// small.
template <class T, int Scalars, int Vectors, bool Partial>
[[gnu::noinline]] void outer_tile(const Pixels& pixels, const Factor& a, const Factor& b, const T* scalars,
                                  const T* vectors, int last_lanes, T* total, Index total_row, bool first) {
  simd::Vector<T> sum[Scalars][Vectors] = {};
  for (Index image = 0; image < pixels.images; ++image) {
    for (Index row = 0; row < pixels.rows; ++row) {
      const T* s = scalars + image * a.image + row * a.row;
      const T* from = vectors + image * b.image + row * b.row;
      for (Index col = 0; col < pixels.cols; ++col, s += a.pixel, from += b.pixel) {
        simd::Vector<T> vector[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          vector[v] = Partial && v == Vectors - 1 ? simd::load_partial<T>(from + v * lanes<T>, last_lanes)
                                                  : simd::load<T>(from + v * lanes<T>);
        }
#pragma GCC unroll 16
        for (int i = 0; i < Scalars; ++i) {
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) sum[i][v] = simd::multiply_add<T>(vector[v], s[i], sum[i][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Scalars; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      T* to = total + i * total_row + v * lanes<T>;
      simd::store<T>(to, first ? sum[i][v] : sum[i][v] + simd::load<T>(to));
    }
  }
}

template <class T>
using OuterTile = void (*)(const Pixels&, const Factor&, const Factor&, const T*, const T*, int, T*, Index, bool);

template <class T, int Vectors, bool Partial>
OuterTile<T> outer_tile_of(Index scalars) {
  switch (scalars) {
    case 1:
      return outer_tile<T, 1, Vectors, Partial>;
    case 2:
      return outer_tile<T, 2, Vectors, Partial>;
    case 3:
      return outer_tile<T, 3, Vectors, Partial>;
    case 4:
      return outer_tile<T, 4, Vectors, Partial>;
    default:
      break;
  }
  if constexpr (outer_scalars<Vectors> == 8) {
    switch (scalars) {
      case 5:
        return outer_tile<T, 5, Vectors, Partial>;
      case 6:
        return outer_tile<T, 6, Vectors, Partial>;
      case 7:
        return outer_tile<T, 7, Vectors, Partial>;
      default:
        return outer_tile<T, 8, Vectors, Partial>;
    }
  }
  return nullptr;
}

template <class T, int Vectors>
OuterTile<T> outer_tile_of(Index scalars, bool partial) {
  return partial ? outer_tile_of<T, Vectors, true>(scalars) : outer_tile_of<T, Vectors, false>(scalars);
}

/// Memory that the next band will read, to be asked for bit by bit while this one computes: a 1x1 convolution does so
/// little with what it reads that it would otherwise wait.
struct Upcoming {
  const char* next;
  const char* end;
  Index step;  // bytes

  void prefetch() {
    for (Index i = 0; i < step && next < end; i += 64, next += 64) __builtin_prefetch(next, 0, 2);
  }
};

/// The sum over the pixels for all channels in `range` of the scalar factor and all of the vector factor.
template <class T>
void outer_product(const Pixels& pixels, const Factor& a, const Factor& b, Range range, const T* scalars,
                   const T* vectors, T* total, bool first, Upcoming upcoming) {
  const Index all_vectors = ceil_div(b.channels, lanes<T>);
  const Index total_row = all_vectors * lanes<T>;
  const Index vector_blocks = ceil_div(all_vectors, most_outer_vectors);
  for (Index block = 0; block < vector_blocks; ++block) {
    const Range block_vectors = even_part(all_vectors, block, vector_blocks);
    const Index column = block_vectors.begin * lanes<T>;
    const int last = static_cast<int>(smaller(lanes<T>, b.channels - (block_vectors.end - 1) * lanes<T>));
    const Index most = block_vectors.size() == 1 ? outer_scalars<1> : outer_scalars<most_outer_vectors>;
    const Index scalar_blocks = ceil_div(range.size(), most);
    for (Index i = 0; i < scalar_blocks; ++i) {
      const Range part = even_part(range.size(), i, scalar_blocks);
      const Index s = range.begin + part.begin;
      const bool partial = last < lanes<T>;
      const OuterTile<T> function = block_vectors.size() == 1   ? outer_tile_of<T, 1>(part.size(), partial)
                                    : block_vectors.size() == 2 ? outer_tile_of<T, 2>(part.size(), partial)
                                                                : outer_tile_of<T, 3>(part.size(), partial);
      upcoming.prefetch();
      function(pixels, a, b, scalars + s, vectors + column, last, total + s * total_row + column, total_row, first);
    }
  }
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
