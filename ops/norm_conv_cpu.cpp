// A tile of pixels at a time: its input is normalised into a scratch that the caches hold, and the convolution's tiles
// read it there. The gradient pass fills one scratch with the input's gradient, another with the input as before, and
// is through with both before it goes on to the next tile.

#include "ops/norm_conv_kernels.hpp"

#include "core/parallel.hpp"
#include "ops/conv2d_channels.hpp"
#include "ops/conv2d_outer.hpp"
#include "ops/cpu_rows.hpp"
#include "ops/norm_conv_plan.hpp"

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
      const V normalised = value * c.scale[v] + c.beta[v];
      const V y = normalised <= 0 ? V{} : normalised;
      // What is stored behind the columns is overwritten by those that follow, but not at the end of an exact row.
      if (Partial && at_end && exact) {
        simd::store_partial<T>(to + v * lanes<T>, y, last);
      } else {
        simd::store<T>(to + v * lanes<T>, y);
      }
    }
  }
}

/// Where the gradient pass finds and leaves a tile: scratches have rows of `pitch` elements.
template <class T>
struct GradientTile {
  Index rows;
  T* dy;  // in: the gradient of y
  T* y;   // out, where needed
  Index pitch;
  double* sum_dy;  // per channel, added to
  double* sum_dy_deviation;
};

/// gradient[row] (+)= scale * dy'[row]; y and the sums of GradientTile.
template <class T, int Vectors, bool Partial, bool Add, bool MakeY>
void gradient_columns(const GradientTile<T>& tile, Index at, const T* x, Index stride, const Parameters<T>& p,
                      Index channel, int last, T* gradient, Index gradient_stride) {
  using V = simd::Vector<T>;
  // A partial vector that is stored delays the next row's load, which overlaps it: load those of several rows first.
  constexpr int together = Add && Partial ? (Vectors == 1 ? 8 : 4) : 1;
  const Columns<T, Vectors> c(p, channel);
  V sum[Vectors] = {};
  V sum_deviation[Vectors] = {};
  const T* dy = tile.dy + at;
  T* y = tile.y + at;
  const auto take_rows = [&]<int Rows>(std::integral_constant<int, Rows>) __attribute__((always_inline)) {
    V before[Rows][Vectors];
    if constexpr (Add) {
#pragma GCC unroll 8
      for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          const T* const from = gradient + row * gradient_stride + v * lanes<T>;
          before[row][v] = v == Vectors - 1 ? load_some<T, Partial>(from, last) : simd::load<T>(from);
        }
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        const bool at_end = v == Vectors - 1;
        const T* const from = x + v * lanes<T>;
        T* const to = gradient + v * lanes<T>;
        const V deviation = (at_end ? load_some<T, Partial>(from, last) : simd::load<T>(from)) - c.mean[v];
        const V normalised = deviation * c.scale[v] + c.beta[v];
        const V masked = normalised > 0 ? simd::load<T>(dy + v * lanes<T>) : V{};
        if constexpr (MakeY) simd::store<T>(y + v * lanes<T>, normalised <= 0 ? V{} : normalised);
        sum[v] += masked;
        sum_deviation[v] += masked * deviation;
        V result = masked * c.scale[v];
        if constexpr (Add) result += before[row][v];
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
  };
  Index row = 0;
  for (; row + together <= tile.rows; row += together) take_rows(std::integral_constant<int, together>());
  for (; row < tile.rows; ++row) take_rows(std::integral_constant<int, 1>());
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

/// The normalised and rectified input: rows x channels, in rows of `pitch` elements. Where they have no more elements
/// than channels, nothing is written behind them.
template <class T>
void load_tile(const NormConvGeometry& g, const NormPart<T>* parts, const Parameters<T>& p, Range rows, Range channels,
               T* to, Index pitch) {
  for_parts(g, parts, channels, [&](const NormPart<T>& part, Index from, Index width, Index channel) {
    const T* const x = part.x + rows.begin * part.channels + from;
    for_columns<T>(width, [&](auto vectors, auto partial, Index at, int last) {
      load_columns<T, vectors(), partial()>(rows.size(), x + at, part.channels, p, channel + at, last,
                                            pitch == channels.size(), to + channel - channels.begin + at, pitch);
    });
  });
}

/// outputs: `count` channels; the k-th input channel's weight for output o is at from[k * k_step + o * o_step]. Packs
/// blocks of vectors as the tiles read them.
template <class T>
void pack_blocks(const T* from, Index k_step, Index o_step, Index inputs, Index count, T* to) {
  const Index vectors = ceil_div(count, lanes<T>);
  const Index blocks = ceil_div(vectors, max_vectors);
  const WeightView<T> view = {from, o_step, 0, 0, k_step};
  for (Index block = 0; block < blocks; ++block) {
    const Range part = even_part(vectors, block, blocks);
    const Index width = part.size() * lanes<T>;
    pack_tap(view, from + part.begin * lanes<T> * o_step, inputs, smaller(width, count - part.begin * lanes<T>),
             to + inputs * part.begin * lanes<T>, width);
  }
}

/// Memory that the next tile will read. Loading a tile does so little with what it reads that it would wait for memory
/// most of the time, so the products of the tile before ask for it, a line now and then: more at once would make them
/// wait, too.
template <class T>
class NextTile {
 public:
  /// What `channels` of these rows take of x and, where `gradients`, of its gradient.
  NextTile(const NormConvGeometry& g, const NormPart<T>* parts, Range rows, Range channels, bool gradients)
      : part_(parts),
        end_(rows.size() > 0 ? parts + g.parts : parts),
        rows_(rows),
        channels_(channels),
        gradients_(gradients) {}

  /// Bytes that follow one another, at most `most` of them; null once there are none any more.
  const char* take(Index most) {
    if (at_ >= stop_ && !next_stretch()) return nullptr;
    const char* const from = at_;
    at_ += most;
    return from;
  }

 private:
  /// Goes on to the rows of the next tensor. One of which only some channels count is left to the hardware.
  bool next_stretch() {
    if (gradient_ != nullptr) {
      set(gradient_);
      gradient_ = nullptr;
      ++part_;
      return true;
    }
    for (; part_ != end_; first_ += part_++->channels) {
      if (first_ < channels_.begin || first_ + part_->channels > channels_.end) continue;
      set(part_->x);
      first_ += part_->channels;
      if (gradients_ && part_->gradient != nullptr) {
        gradient_ = part_->gradient;
      } else {
        ++part_;
      }
      return true;
    }
    return false;
  }

  void set(const T* tensor) {
    at_ = reinterpret_cast<const char*>(tensor + rows_.begin * part_->channels);
    stop_ = reinterpret_cast<const char*>(tensor + rows_.end * part_->channels);
  }

  const NormPart<T>* part_;
  const NormPart<T>* end_;
  Index first_ = 0;  // channel of all
  Range rows_, channels_;
  bool gradients_;
  const T* gradient_ = nullptr;  // of the part whose x has just been through
  const char* at_ = nullptr;
  const char* stop_ = nullptr;
};

/// Operands of product_tile(), in elements.
struct Product {
  Index inputs;
  Index x_step, y_step;  // between rows
  int last_lanes;        // of the last vector that exist in y
  bool accumulate;
  Index ahead_bytes;  // how far reading ahead goes with each input
};

/// y[row, vector] (+)= sum over k of x[row, k] * w[k, vector], and asks for what is at `ahead`.
template <class T, int Rows, int Vectors>
[[gnu::noinline]] void product_tile(const Product& p, const T* x, const T* w, T* y, const char* ahead1,
                                    const char* ahead2) {
  simd::Vector<T> sum[Rows][Vectors] = {};
  const T* row[Rows];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) row[i] = x + i * p.x_step;
  for (Index k = 0; k < p.inputs; ++k) {
    __builtin_prefetch(ahead1, 0, 2);
    __builtin_prefetch(ahead2, 0, 2);
    ahead1 += p.ahead_bytes;
    ahead2 += p.ahead_bytes;
    simd::Vector<T> weight[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) weight[v] = simd::load<T>(w + (k * Vectors + v) * lanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] += weight[v] * row[i][k];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    T* to = y + i * p.y_step;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v, to += lanes<T>) {
      if (v < Vectors - 1 || p.last_lanes == lanes<T>) {
        simd::store<T>(to, p.accumulate ? sum[i][v] + simd::load<T>(to) : sum[i][v]);
      } else {
        const simd::Vector<T> old = p.accumulate ? simd::load_partial<T>(to, p.last_lanes) : simd::Vector<T>{};
        simd::store_partial<T>(to, sum[i][v] + old, p.last_lanes);
      }
    }
  }
}

template <class T, int Vectors>
void multiply_block(const Product& p, Index rows, const T* x, const T* w, T* y, NextTile<T>& next) {
  constexpr Index most = tile_pixels<Vectors>;
  const auto* const own = reinterpret_cast<const char*>(x);
  for (Index at = 0; at < rows;) {
    const char* const ahead1 = next.take(p.inputs * p.ahead_bytes);
    const char* const ahead2 = next.take(p.inputs * p.ahead_bytes);
    const T* const from = x + at * p.x_step;
    T* const to = y + at * p.y_step;
    const auto run = [&]<int Rows>() {
      product_tile<T, Rows, Vectors>(p, from, w, to, ahead1 != nullptr ? ahead1 : own,
                                     ahead2 != nullptr ? ahead2 : own);
      at += Rows;
    };
    if (rows - at >= most) {
      run.template operator()<most>();
    } else if (rows - at >= 4) {
      run.template operator()<4>();
    } else {
      run.template operator()<1>();
    }
  }
}

/// y (+)= x times the packed weights: `rows` rows of x, x_step apart, of which the input channels `inputs` out of
/// `all_inputs` count (x points to the first of them). `padded`: rows of y have room for whole vectors.
template <class T>
void multiply(Index rows, const T* x, Index x_step, Range inputs, Index all_inputs, const T* packed, Index outputs,
              bool accumulate, bool padded, T* y, Index y_step, NextTile<T>& next, Index ahead_bytes) {
  Product p = {inputs.size(), x_step, y_step, 0, accumulate, ahead_bytes};
  const Index vectors = ceil_div(outputs, lanes<T>);
  const Index blocks = ceil_div(vectors, max_vectors);
  for (Index block = 0; block < blocks; ++block) {
    const Range part = even_part(vectors, block, blocks);
    p.last_lanes = padded ? lanes<T> : static_cast<int>(smaller(lanes<T>, outputs - (part.end - 1) * lanes<T>));
    const T* w = packed + (all_inputs * part.begin + inputs.begin * part.size()) * lanes<T>;
    T* to = y + part.begin * lanes<T>;
    switch (part.size()) {
      case 1:
        multiply_block<T, 1>(p, rows, x, w, to, next);
        break;
      case 2:
        multiply_block<T, 2>(p, rows, x, w, to, next);
        break;
      default:
        multiply_block<T, 3>(p, rows, x, w, to, next);
        break;
    }
  }
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

}  // namespace

template <class T>
void norm_conv_forward(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n, const T* w, T* z,
                       T* y, T* workspace) {
  const NormConvCut cut = cut_forward(g, sizeof(T), y != nullptr);
  const Parameters<T> p = collect_parameters(g.channels, n, workspace);
  T* const packed = workspace + parameter_elements(g);
  pack_blocks(w, 1, g.channels, g.channels, g.outputs, packed);
  parallel_for(ceil_div(g.rows, cut.task_rows), [&](Index task) {
    alignas(64) T scratch[norm_conv_scratch_bytes / sizeof(T)];
    const Range mine = {task * cut.task_rows, smaller(g.rows, (task + 1) * cut.task_rows)};
    for (Index row = mine.begin; row < mine.end; row += cut.rows) {
      const Range rows = {row, smaller(mine.end, row + cut.rows)};
      for (Index first = 0; first < g.channels; first += cut.channels) {
        const Range channels = {first, smaller(g.channels, first + cut.channels)};
        load_tile(g, parts, p, rows, channels, scratch, cut.pitch);
        if (y != nullptr) {
          for (Index i = 0; i < rows.size(); ++i) {
            std::memcpy(y + (row + i) * g.channels + first, scratch + i * cut.pitch,
                        static_cast<std::size_t>(channels.size()) * sizeof(T));
          }
        }
        NextTile<T> next(g, parts, {rows.end, smaller(mine.end, rows.end + cut.rows)}, channels, false);
        multiply(rows.size(), scratch, cut.pitch, channels, g.channels, packed, g.outputs, first > 0, false,
                 z + row * g.outputs, g.outputs, next, 16);
      }
    }
  });
}

template <class T>
void norm_conv_backward(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n, const T* w,
                        const T* y, const T* dz, T* dw, bool accumulate, T* sum_dy, T* sum_dy_xhat, T* workspace) {
  const NormConvSplit split = split_backward(g);
  double* const sums = reinterpret_cast<double*>(workspace);  // a chunk: dy, then dy * deviation
  T* const partial = workspace + split.sum_elements;
  T* const packed = partial + split.chunks * split.partial;
  const Parameters<T> p = collect_parameters(g.channels, n, packed + g.outputs * round_up(g.channels, max_lanes));
  const Index blocks = ceil_div(g.channels, gradient_channels);
  const auto block_at = [&](Index block) {
    return Range{block * gradient_channels, smaller(g.channels, (block + 1) * gradient_channels)};
  };
  for (Index block = 0; block < blocks; ++block) {
    const Range channels = block_at(block);
    pack_blocks(w + channels.begin, g.channels, 1, g.outputs, channels.size(), packed + g.outputs * channels.begin);
  }
  const Index groups = gradient_groups(g);
  const Index total_row = round_up(g.outputs, lanes<T>);
  parallel_for(split.chunks * groups, [&](Index task) {
    alignas(64) T dy_scratch[gradient_rows * gradient_pitch];
    alignas(64) T y_scratch[gradient_rows * gradient_pitch];
    const Index chunk = task / groups;
    const Range mine = even_part(g.rows, chunk, split.chunks);
    const Range my_blocks = even_part(blocks, task % groups, groups);
    const Range my_channels = {block_at(my_blocks.begin).begin, block_at(my_blocks.end - 1).end};
    GradientTile<T> tile = {};
    tile.dy = dy_scratch;
    tile.y = y_scratch;
    tile.pitch = gradient_pitch;
    tile.sum_dy = sums + chunk * 2 * g.channels;
    tile.sum_dy_deviation = tile.sum_dy + g.channels;
    for (Index c = my_channels.begin; c < my_channels.end; ++c) tile.sum_dy[c] = tile.sum_dy_deviation[c] = 0;
    T* const total = partial + chunk * split.partial;
    for (Index row = mine.begin; row < mine.end; row += gradient_rows) {
      tile.rows = smaller(gradient_rows, mine.end - row);
      const T* const dz_tile = dz + row * g.outputs;
      NextTile<T> next(g, parts, {row + tile.rows, smaller(mine.end, row + tile.rows + gradient_rows)}, my_channels,
                       true);
      for (Index block = my_blocks.begin; block < my_blocks.end; ++block) {
        const Range channels = block_at(block);
        multiply(tile.rows, dz_tile, g.outputs, {0, g.outputs}, g.outputs, packed + g.outputs * channels.begin,
                 channels.size(), false, true, dy_scratch, tile.pitch, next, 32);
        add_input_gradients(g, parts, p, channels, row, tile, y == nullptr);
        if (dw == nullptr) continue;
        const Factor dz_factor = {g.outputs, 0, 0, g.outputs};
        const Factor y_factor = {channels.size(), 0, 0, y == nullptr ? tile.pitch : g.channels};
        const T* const scalars = y == nullptr ? y_scratch : y + row * g.channels + channels.begin;
        outer_product(Pixels{1, 1, tile.rows}, y_factor, dz_factor, {0, channels.size()}, scalars, dz_tile,
                      total + channels.begin * total_row, row == mine.begin, Upcoming{});
      }
    }
  });
  for (Index chunk = 1; chunk < split.chunks; ++chunk) {
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
  if (dw == nullptr) return;
  parallel_for(g.channels, [&](Index c) {
    const T* const from = partial + c * total_row;
    for (Index k = 0; k < g.outputs; k += lanes<T>) {
      simd::Vector<T> sum = simd::load<T>(from + k);
      for (Index chunk = 1; chunk < split.chunks; ++chunk) sum += simd::load<T>(from + k + chunk * split.partial);
      const Index count = smaller(lanes<T>, g.outputs - k);
      for (Index i = 0; i < count; ++i) {
        T& element = dw[(k + i) * g.channels + c];
        element = accumulate ? element + sum[i] : sum[i];
      }
    }
  });
}

template <class T>
void norm_conv_correct(Index rows, Index channels, const T* x, const T* mean, const T* correction, T* gradient) {
  for_channel_strips(channels, [&](Index first, Index strip) {
    alignas(64) T means[FoldedRows::max_width];
    alignas(64) T offsets[FoldedRows::max_width];
    alignas(64) T slopes[FoldedRows::max_width];
    const FoldedRows folded = fold_rows(strip, channels);
    repeat(strip, folded.width, mean + first, means);
    repeat(strip, folded.width, correction + first, offsets);
    repeat(strip, folded.width, correction + channels + first, slopes);
    const Output<T> output(gradient + first, rows * channels, true);
    write_spans(rows, strip, channels, output, [&](Index at, Index count, T* to) {
#pragma GCC ivdep
      for (Index i = 0; i < count; ++i) {
        to[i] -= multiply_add(slopes[i], x[first + at + i] - means[i], offsets[i]);
      }
    });
  });
}

#define INSTANTIATE(T)                                                                                            \
  template void norm_conv_forward(const NormConvGeometry&, const NormPart<T>*, const Normalization<T>&, const T*, \
                                  T*, T*, T*);                                                                    \
  template void norm_conv_backward(const NormConvGeometry&, const NormPart<T>*, const Normalization<T>&,          \
                                   const T*, const T*, const T*, T*, bool, T*, T*, T*);                           \
  template void norm_conv_correct(Index, Index, const T*, const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
