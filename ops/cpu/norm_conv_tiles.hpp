#pragma once

// Tiles of pixels that are normalised and rectified as they are loaded, and the gradient's counterpart, for kernel
// files.

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/kernels/conv2d_problem.hpp>
#include <palimpsest/ops/kernels/norm_conv.hpp>
#include <palimpsest/ops/kernels/norm_conv_partition.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

/// The normalisation's parameters of all channels, with zeros behind them as far as a vector reaches.
template <class T>
struct Parameters {
  const T* mean;
  const T* scale;
  const T* beta;
};

template <class T>
Parameters<T> collect_parameters(Index channels, const Normalization<T>& n, T* to) {
  const Index pitch = channels + 4 * max_lanes;
  T* const mean = to;
  T* const scale = mean + pitch;
  T* const beta = scale + pitch;
  for (Index c = 0; c < pitch; ++c) {
    mean[c] = c < channels ? n.mean[c] : 0;
    scale[c] = c < channels ? n.gamma[c] * n.rstd[c] : 0;
    beta[c] = c < channels ? n.beta[c] : 0;
  }
  return {mean, scale, beta};
}

/// The part of a tensor's channels that a tile takes: columns of `Vectors` vectors, the last of which may be partial.
template <class T, int Vectors>
struct Columns {
  using V = simd::Vector<T>;
  V mean[Vectors], scale[Vectors], beta[Vectors];

  explicit Columns(const Parameters<T>& p, Index channel) {
    for (int v = 0; v < Vectors; ++v) {
      mean[v] = simd::load<T>(p.mean + channel + v * lanes<T>);
      scale[v] = simd::load<T>(p.scale + channel + v * lanes<T>);
      beta[v] = simd::load<T>(p.beta + channel + v * lanes<T>);
    }
  }
};

template <class T, bool Partial>
[[gnu::always_inline]] inline simd::Vector<T> load_some(const T* from, int count) {
  return Partial ? simd::load_partial<T>(from, count) : simd::load<T>(from);
}

template <class T, bool Partial>
[[gnu::always_inline]] inline void store_some(T* to, simd::Vector<T> value, int count) {
  if constexpr (Partial) {
    simd::store_partial<T>(to, value, count);
  } else {
    simd::store<T>(to, value);
  }
}

/// to[row] = max(0, normalised x[row]); NaN stays NaN.
template <class T, int Vectors, bool Partial>
void load_columns(Index rows, const T* x, Index stride, const Parameters<T>& p, Index channel, int last, bool exact,
                  T* to, Index pitch) {
  using V = simd::Vector<T>;
  const Columns<T, Vectors> c(p, channel);
  for (Index row = 0; row < rows; ++row, x += stride, to += pitch) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const bool at_end = v == Vectors - 1;
      const T* const from = x + v * lanes<T>;
      const V value = (at_end ? load_some<T, Partial>(from, last) : simd::load<T>(from)) - c.mean[v];
      const V normalised = simd::multiply_add<T>(value, c.scale[v], c.beta[v]);
      const V y = normalised <= 0 ? V{} : normalised;
      // Elements stored behind the columns are overwritten by those that follow, but not at the end of an exact row.
      if (Partial && at_end && exact) {
        simd::store_partial<T>(to + v * lanes<T>, y, last);
      } else {
        simd::store<T>(to + v * lanes<T>, y);
      }
    }
  }
}

/// The places where the gradient pass finds and leaves a tile: scratches have rows of `pitch` elements.
template <class T>
struct GradientTile {
  Index rows;
  T* dy;  // in: the gradient of y
  T* y;   // out, where needed
  Index pitch;
  bool exact;      // rows of y have no room behind them
  double* sum_dy;  // per channel, added to
  double* sum_dy_deviation;
};

/// gradient[row] (+)= scale * dy'[row]; y and the sums of GradientTile.
template <class T, int Vectors, bool Partial, bool Add, bool MakeY>
void gradient_columns(const GradientTile<T>& tile, Index at, const T* x, Index stride, const Parameters<T>& p,
                      Index channel, int last, T* gradient, Index gradient_stride) {
  using V = simd::Vector<T>;
  const Columns<T, Vectors> c(p, channel);
  V sum[Vectors] = {};
  V sum_deviation[Vectors] = {};
  const T* dy = tile.dy + at;
  T* y = tile.y + at;
  for (Index row = 0; row < tile.rows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const bool at_end = v == Vectors - 1;
      const T* const from = x + v * lanes<T>;
      T* const to = gradient + v * lanes<T>;
      const V deviation = (at_end ? load_some<T, Partial>(from, last) : simd::load<T>(from)) - c.mean[v];
      const V normalised = simd::multiply_add<T>(deviation, c.scale[v], c.beta[v]);
      const V masked = normalised > 0 ? simd::load<T>(dy + v * lanes<T>) : V{};
      if constexpr (MakeY) {
        const V rectified = normalised <= 0 ? V{} : normalised;
        if (Partial && at_end && tile.exact) {
          simd::store_partial<T>(y + v * lanes<T>, rectified, last);
        } else {
          simd::store<T>(y + v * lanes<T>, rectified);
        }
      }
      sum[v] += masked;
      sum_deviation[v] = simd::multiply_add<T>(masked, deviation, sum_deviation[v]);
      V result = {};
      if constexpr (Add) {
        result =
            simd::multiply_add<T>(masked, c.scale[v], at_end ? load_some<T, Partial>(to, last) : simd::load<T>(to));
      } else {
        result = masked * c.scale[v];
      }
      if (at_end) {
        store_some<T, Partial>(to, result, last);
      } else {
        simd::store<T>(to, result);
      }
    }
    x += stride;
    gradient += gradient_stride;
    dy += tile.pitch;
    y += tile.pitch;
  }
  for (int v = 0; v < Vectors; ++v) {
    const int count = v == Vectors - 1 ? last : lanes<T>;
    for (int lane = 0; lane < count; ++lane) {
      tile.sum_dy[channel + v * lanes<T> + lane] += static_cast<double>(sum[v][lane]);
      tile.sum_dy_deviation[channel + v * lanes<T> + lane] += static_cast<double>(sum_deviation[v][lane]);
    }
  }
}

/// Calls body(vectors, partial, offset, elements of the last vector) for the columns that make up `width` channels.
template <class T, class Body>
[[gnu::always_inline]] inline void for_columns(Index width, const Body& body) {
  using std::integral_constant;
  Index at = 0;
  for (; width - at >= 4 * lanes<T>; at += 4 * lanes<T>) {
    body(integral_constant<int, 4>(), std::false_type(), at, lanes<T>);
  }
  if (width - at == 3 * lanes<T>) {
    body(integral_constant<int, 3>(), std::false_type(), at, lanes<T>);
    return;
  }
  for (; width - at >= 2 * lanes<T>; at += 2 * lanes<T>) {
    body(integral_constant<int, 2>(), std::false_type(), at, lanes<T>);
  }
  const Index rest = width - at;
  if (rest == 0) return;
  const int last = static_cast<int>(rest > lanes<T> ? rest - lanes<T> : rest);
  if (rest > lanes<T>) {
    body(integral_constant<int, 2>(), std::true_type(), at, last);
  } else if (rest == lanes<T>) {
    body(integral_constant<int, 1>(), std::false_type(), at, last);
  } else {
    body(integral_constant<int, 1>(), std::true_type(), at, last);
  }
}

/// Calls body(part, first channel in the part, channels, first channel of all) for what lies in `channels`.
template <class T, class Body>
void for_parts(const NormConvGeometry& g, const NormPart<T>* parts, Range channels, const Body& body) {
  Index first = 0;
  for (Index i = 0; i < g.parts && first < channels.end; first += parts[i++].channels) {
    const Range inside = intersect({first, first + parts[i].channels}, channels);
    if (inside.size() > 0) body(parts[i], inside.begin - first, inside.size(), inside.begin);
  }
}

/// The normalised and rectified input: rows x channels, in rows of `pitch` elements. Nothing is written behind rows
/// that have no more elements than channels.
template <class T>
void load_tile(const NormConvGeometry& g, const NormPart<T>* parts, const Parameters<T>& p, Range rows, Range channels,
               T* to, Index pitch) {
  const bool exact = pitch == channels.size();
  for_parts(g, parts, channels, [&](const NormPart<T>& part, Index from, Index width, Index channel) {
    const T* const x = part.x + rows.begin * part.channels + from;
    for_columns<T>(width, [&](auto vectors, auto partial, Index at, int last) {
      load_columns<T, vectors(), partial()>(rows.size(), x + at, part.channels, p, channel + at, last, exact,
                                            to + channel - channels.begin + at, pitch);
    });
  });
}

/// gradient_columns for a tile of rows from `row` on and the given channels.
template <class T>
void add_input_gradients(const NormConvGeometry& g, const NormPart<T>* parts, const Parameters<T>& p, Range channels,
                         Index row, const GradientTile<T>& tile, bool make_y) {
  for_parts(g, parts, channels, [&](const NormPart<T>& part, Index from, Index width, Index channel) {
    const Index offset = row * part.channels + from;
    for_columns<T>(width, [&](auto vectors, auto partial, Index at, int last) {
      const Index column = channel - channels.begin + at;
      // A gradient that nobody wants goes where its dy was.
      T* const gradient = part.gradient != nullptr ? part.gradient + offset + at : tile.dy + column;
      const Index stride = part.gradient != nullptr ? part.channels : tile.pitch;
      const auto run = [&]<bool Add, bool MakeY>() {
        gradient_columns<T, vectors(), partial(), Add, MakeY>(tile, column, part.x + offset + at, part.channels, p,
                                                              channel + at, last, gradient, stride);
      };
      if (make_y) {
        part.accumulate ? run.template operator()<true, true>() : run.template operator()<false, true>();
      } else {
        part.accumulate ? run.template operator()<true, false>() : run.template operator()<false, false>();
      }
    });
  });
}

/// The sums over all rows for each channel: `sums` holds those of dy' and of dy' * deviation for each chunk of
/// the rows.
template <class T>
void finish_sums(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n, const Parameters<T>& p,
                 double* sums, Index chunks, T* sum_dy, T* sum_dy_xhat) {
  for (Index chunk = 1; chunk < chunks; ++chunk) {
    for (Index i = 0; i < 2 * g.channels; ++i) sums[i] += sums[chunk * 2 * g.channels + i];
  }
  for (Index c = 0; c < g.channels; ++c) {
    sum_dy[c] = static_cast<T>(sums[c]);
    sum_dy_xhat[c] = static_cast<T>(sums[g.channels + c] * static_cast<double>(n.rstd[c]));
  }
  for_parts(g, parts, {0, g.channels}, [&](const NormPart<T>& part, Index, Index width, Index channel) {
    if (part.gradient == nullptr) return;
    for (Index c = 0; c < width; ++c) {
      const T share = p.scale[channel + c] / static_cast<T>(g.rows);
      const T offset = share * sum_dy[channel + c];
      const T slope = share * n.rstd[channel + c] * sum_dy_xhat[channel + c];
      part.correction[c] = part.gathered ? part.correction[c] + offset : offset;
      part.correction[width + c] = part.gathered ? part.correction[width + c] + slope : slope;
    }
  });
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
