// A tile of pixels at a time: its input is normalised into a scratch that the caches hold, and the convolution's tiles
// read it there. The gradient pass fills one scratch with the input's gradient, another with the input as before, and
// is through with both before it goes on to the next tile.

#include <palimpsest/ops/kernels/norm_conv.hpp>

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/cpu/conv2d_channels.hpp>
#include <palimpsest/ops/cpu/conv2d_outer.hpp>
#include <palimpsest/ops/cpu/norm_conv_tiles.hpp>
#include <palimpsest/ops/cpu/rows.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

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
  /// `channels` of these rows of x and, where `gradients`, of its gradient; and all of y, unless it is null.
  NextTile(const NormConvGeometry& g, const NormPart<T>* parts, Range rows, Range channels, bool gradients, const T* y)
      : part_(parts),
        end_(rows.size() > 0 ? parts + g.parts : parts),
        rows_(rows),
        channels_(channels),
        gradients_(gradients) {
    if (y == nullptr) return;
    at_ = reinterpret_cast<const char*>(y + rows.begin * g.channels);
    stop_ = reinterpret_cast<const char*>(y + larger(rows.begin, rows.end) * g.channels);
  }

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
      for (int v = 0; v < Vectors; ++v) sum[i][v] = simd::multiply_add<T>(weight[v], row[i][k], sum[i][v]);
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
        if (y != nullptr && cut.pitch == g.channels) {
          stream(rows.size() * g.channels, scratch, y + row * g.channels);  // nobody reads it before backward
        } else if (y != nullptr) {
          for (Index i = 0; i < rows.size(); ++i) {
            std::memcpy(y + (row + i) * g.channels + first, scratch + i * cut.pitch,
                        static_cast<std::size_t>(channels.size()) * sizeof(T));
          }
        }
        NextTile<T> next(g, parts, {rows.end, smaller(mine.end, rows.end + cut.rows)}, channels, false, nullptr);
        multiply(rows.size(), scratch, cut.pitch, channels, g.channels, packed, g.outputs, first > 0, false,
                 z + row * g.outputs, g.outputs, next, 16);
      }
    }
    publish_streams();
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
                       true, groups == 1 ? y : nullptr);
      for (Index block = my_blocks.begin; block < my_blocks.end; ++block) {
        const Range channels = block_at(block);
        multiply(tile.rows, dz_tile, g.outputs, {0, g.outputs}, g.outputs, packed + g.outputs * channels.begin,
                 channels.size(), false, true, dy_scratch, tile.pitch, next, y == nullptr ? 32 : 64);
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
  finish_sums(g, parts, n, p, sums, split.chunks, sum_dy, sum_dy_xhat);
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

#define INSTANTIATE(T)                                                                                                \
  template void norm_conv_forward(const NormConvGeometry&, const NormPart<T>*, const Normalization<T>&, const T*, T*, \
                                  T*, T*);                                                                            \
  template void norm_conv_backward(const NormConvGeometry&, const NormPart<T>*, const Normalization<T>&, const T*,    \
                                   const T*, const T*, T*, bool, T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
