// Forward convolution and its data gradient, both as one kernel: a tile of up to 8 output pixels by up to 3 vectors of
// output channels stays in registers while all taps and input channels are added to it. In a channels-last image the
// elements under one row of taps are contiguous, so the inner loop runs over kernel_w * c_in of them at once.

#include "core/parallel.hpp"
#include "ops/conv2d_plan.hpp"
#include "ops/simd.hpp"

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr Index scratch_bytes = 96 * 1024;        // on the stack: part of an image with its padding; fits L2 with the rest
constexpr Index weight_block_bytes = 384 * 1024;  // packed weights that one pass over a band reads again and again
constexpr int max_vectors = 3;                    // of output channels in a tile

template <class T>
constexpr int lanes = simd::Simd<T>::lanes;

/// Pixels in a tile of `Vectors` vectors: accumulators, weights and one input must fit the registers.
template <int Vectors>
constexpr int tile_pixels = simd::registers == 32 || Vectors == 1 ? 8 : 4;

/// A convolution with arbitrary steps between output pixels, which is also what the data gradient's phases are.
template <class T>
struct Problem {
  const T* x;  // (n, h_in, w_in, c_in), dense
  T* y;        // pixel (n, i, j) is at y + n * y_image + i * y_row + j * y_pixel
  Index y_image, y_row, y_pixel;
  Index n, c_in, h_in, w_in, c_out, h_out, w_out;
  Index kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  bool accumulate;
  T* packed;  // the weights: for each block of input channels and block of output vectors (tap row, tap, channel, lane)
};

/// Where the weight of (output channel o, tap row r, tap s, input channel c) is: w + o * o_step + r * r_step + ...
template <class T>
struct WeightView {
  const T* w;
  Index o_step, r_step, s_step, c_step;
};

/// How a problem is cut: into bands of rows x cols output pixels, the input channels into c_blocks.
struct Tiling {
  Index rows, cols;
  Index c_blocks;
  bool copy;    // read a padded copy of the band's input instead of x itself
  bool by_tap;  // not even a single pixel's input fits the scratch: add one tap at a time to y
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
  constexpr Index capacity = scratch_bytes / static_cast<Index>(sizeof(T));
  const auto extent = [](Index outputs, Index stride, Index kernel) { return (outputs - 1) * stride + kernel; };
  const Index taps = p.kernel_h * p.kernel_w;
  const Index few_cols = smaller(p.w_out, 8);
  const Index weight_limit = weight_block_bytes / static_cast<Index>(sizeof(T)) / (taps * max_vectors * lanes<T>);
  const Index patch_limit = capacity / (p.kernel_h * extent(few_cols, p.stride_w, p.kernel_w));
  if (patch_limit == 0) return {p.h_out, p.w_out, 1, false, true};
  Tiling t = {};
  t.c_blocks = ceil_div(p.c_in, larger(1, smaller(patch_limit, larger(weight_limit, 16))));
  // Of padding by one column only the first tap of the first and the last tap of the last pixel know: tiles leave them
  // out. (Of rows above and below they leave out whole rows of taps.) A run over some of the channels needs a copy.
  const Index most_padding = larger(p.pad_left, overhang(p));
  t.copy = p.kernel_w == 1 ? most_padding > 0 : most_padding > 1 || t.c_blocks > 1;
  const Index channels = ceil_div(p.c_in, t.c_blocks);
  const auto size = [&](Index rows, Index cols) {
    return extent(rows, p.stride_h, p.kernel_h) * extent(cols, p.stride_w, p.kernel_w) * channels;
  };
  t.cols = p.w_out;
  while (size(1, t.cols) > capacity && t.cols > few_cols) t.cols = larger(few_cols, round_up(ceil_div(t.cols, 2), 8));
  const Index parallel_rows = larger(1, p.n * p.h_out * ceil_div(p.w_out, t.cols) / 32);
  t.rows = 1;
  while (t.rows < p.h_out && t.rows < parallel_rows && size(t.rows + 1, t.cols) <= capacity) ++t.rows;
  return t;
}

template <class T>
void pack_weights(const Problem<T>& p, const WeightView<T>& view, const Tiling& tiling) {
  const Index taps = p.kernel_h * p.kernel_w;
  const Index blocks = output_blocks(p);
  parallel_for(tiling.c_blocks * blocks, [&](Index task) {
    const Range channels = even_part(p.c_in, task / blocks, tiling.c_blocks);
    const Range vectors = output_block(p, task % blocks);
    const Index width = vectors.size() * lanes<T>;
    const Index exist = smaller(width, p.c_out - vectors.begin * lanes<T>);
    T* to = p.packed +
            taps * lanes<T> * (channels.begin * output_vectors(p) + channels.size() * vectors.begin);
    for (Index tap = 0; tap < taps; ++tap, to += channels.size() * width) {
      const T* from = view.w + tap / p.kernel_w * view.r_step + tap % p.kernel_w * view.s_step;
      for (Index c = channels.begin; c < channels.end; ++c) {
        T* lane = to + (c - channels.begin) * width;
        const T* weight = from + c * view.c_step + vectors.begin * lanes<T> * view.o_step;
        for (Index i = 0; i < exist; ++i) lane[i] = weight[i * view.o_step];
        for (Index i = exist; i < width; ++i) lane[i] = T{0};
      }
    }
  });
}

/// What is the same for all tiles of a band.
struct TileShape {
  Index x_pixel, x_row;  // steps between output pixels' inputs and between tap rows, in elements
  Index run;             // contiguous elements under one row of taps
  Index tap;             // of which those under one tap
  Index y_pixel;
  int last_lanes;   // lanes of the last vector that exist in y
  bool accumulate;  // add to y
};

/// sum[pixel][vector] += x[pixel, k] * w[k, vector] for k < count and the pixels from First to before Last.
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
      for (int v = 0; v < Vectors; ++v) sum[i][v] += weight[v] * x[i][k];
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
    add_run<T, 0, Pixels>(sum, pixel, begin, end, w);
    if constexpr (Pixels > 1) {
      if (right_edge) add_run<T, 0, Pixels - 1>(sum, pixel, end, shape.run, w);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Pixels; ++i) {
    T* to = y + i * shape.y_pixel;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v, to += lanes<T>) {
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

template <class T, int Vectors>
void tile_segment(const TileShape& shape, Segment segment, const T* x, Index tap_rows, const T* w, T* y) {
  const auto run = [&]<int Pixels>() {
    const bool last = segment.pixels == Pixels;
    tile<T, Pixels, Vectors>(shape, segment.left_edge, segment.right_edge && last, x, tap_rows, w, y);
    x += Pixels * shape.x_pixel;
    y += Pixels * shape.y_pixel;
    segment.pixels -= Pixels;
    segment.left_edge = false;
  };
  constexpr int most = tile_pixels<Vectors>;
  while (segment.pixels >= most) run.template operator()<most>();
  if constexpr (most == 8) {
    if (segment.pixels >= 4) run.template operator()<4>();
  }
  if (segment.pixels >= 2) run.template operator()<2>();
  if (segment.pixels == 1) run.template operator()<1>();
}

/// The output pixels of one task.
struct Band {
  Index image;
  Range rows, cols;
};

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

/// All output channels of a band from the given input channels.
template <class T>
void convolve_band(const Problem<T>& p, const Band& band, Range channels, const Input<T>& input) {
  const Segment segment = {band.cols.size(), !input.padded && p.pad_left > 0 && band.cols.begin == 0,
                           !input.padded && overhang(p) > 0 && band.cols.end == p.w_out};
  TileShape shape = {};
  shape.x_pixel = p.stride_w * input.pixel_step;
  shape.x_row = input.row_step;
  shape.run = p.kernel_w * channels.size();
  shape.tap = channels.size();
  shape.y_pixel = p.y_pixel;
  shape.accumulate = p.accumulate || channels.begin > 0;
  const T* weights = p.packed + p.kernel_h * p.kernel_w * channels.begin * output_vectors(p) * lanes<T>;
  for (Index block = 0; block < output_blocks(p); ++block) {
    const Range vectors = output_block(p, block);
    const Index w_row = shape.run * vectors.size() * lanes<T>;
    shape.last_lanes = static_cast<int>(smaller(lanes<T>, p.c_out - (vectors.end - 1) * lanes<T>));
    for (Index row = band.rows.begin; row < band.rows.end; ++row) {
      const Range taps = valid_taps(row, p.stride_h, p.pad_top, p.kernel_h, p.h_in);
      const T* x = input.origin + (row * p.stride_h - p.pad_top + taps.begin) * input.row_step +
                   (band.cols.begin * p.stride_w - p.pad_left) * input.pixel_step;
      const T* w = weights + taps.begin * w_row;
      T* y = p.y + band.image * p.y_image + row * p.y_row + band.cols.begin * p.y_pixel + vectors.begin * lanes<T>;
      switch (vectors.size()) {
        case 1: tile_segment<T, 1>(shape, segment, x, taps.size(), w, y); break;
        case 2: tile_segment<T, 2>(shape, segment, x, taps.size(), w, y); break;
        default: tile_segment<T, 3>(shape, segment, x, taps.size(), w, y); break;
      }
    }
    weights += p.kernel_h * w_row;
  }
}

template <class T>
void convolve_by_tap(Problem<T> p, const WeightView<T>& view);

template <class T>
void convolve(const Problem<T>& p, const WeightView<T>& view) {
  const Tiling tiling = choose_tiling(p);
  if (tiling.by_tap) return convolve_by_tap(p, view);
  pack_weights(p, view, tiling);
  const Index row_bands = ceil_div(p.h_out, tiling.rows);
  const Index col_bands = ceil_div(p.w_out, tiling.cols);
  parallel_for(p.n * row_bands * col_bands, [&](Index task) {
    alignas(64) T scratch[scratch_bytes / sizeof(T)];
    const Index row = task / col_bands % row_bands * tiling.rows;
    const Index col = task % col_bands * tiling.cols;
    const Band band = {task / col_bands / row_bands,
                       {row, smaller(row + tiling.rows, p.h_out)},
                       {col, smaller(col + tiling.cols, p.w_out)}};
    for (Index block = 0; block < tiling.c_blocks; ++block) {
      const Range channels = even_part(p.c_in, block, tiling.c_blocks);
      const Input<T> input = tiling.copy
                                 ? copy_input(p, band, channels, scratch)
                                 : Input<T>{p.x + band.image * p.h_in * p.w_in * p.c_in + channels.begin,
                                            p.w_in * p.c_in, p.c_in, false};
      convolve_band(p, band, channels, input);
    }
  });
}

template <class T>
void fill_zero(const Problem<T>& p) {
  parallel_for(p.n * p.h_out, [&](Index task) {
    T* row = p.y + task / p.h_out * p.y_image + task % p.h_out * p.y_row;
    for (Index col = 0; col < p.w_out; ++col) {
      std::memset(row + col * p.y_pixel, 0, static_cast<std::size_t>(p.c_out) * sizeof(T));
    }
  });
}

/// For kernels so large that one output's input does not fit the scratch: each tap is a 1x1 convolution over the outputs
/// for which it reads inside of x, added to y.
template <class T>
void convolve_by_tap(Problem<T> p, const WeightView<T>& view) {
  if (!p.accumulate) fill_zero(p);
  for (Index tap = 0; tap < p.kernel_h * p.kernel_w; ++tap) {
    const Index r = tap / p.kernel_w;
    const Index s = tap % p.kernel_w;
    const Range rows = valid_outputs(r, p.stride_h, p.pad_top, p.h_in, p.h_out);
    const Range cols = valid_outputs(s, p.stride_w, p.pad_left, p.w_in, p.w_out);
    if (rows.size() == 0 || cols.size() == 0) continue;
    Problem<T> one = p;
    one.accumulate = true;
    one.kernel_h = one.kernel_w = 1;
    one.y += rows.begin * p.y_row + cols.begin * p.y_pixel;
    one.h_out = rows.size();
    one.w_out = cols.size();
    one.pad_top = p.pad_top - r - rows.begin * p.stride_h;
    one.pad_left = p.pad_left - s - cols.begin * p.stride_w;
    WeightView<T> weight = view;
    weight.w += r * view.r_step + s * view.s_step;
    convolve(one, weight);
  }
}

/// A 1x1 convolution with stride 1 is one matrix product over all pixels: let it be one row of them.
template <class T>
Problem<T> flatten(Problem<T> p) {
  const bool pointwise = p.kernel_h == 1 && p.kernel_w == 1 && p.stride_h == 1 && p.stride_w == 1 && p.pad_top == 0 &&
                         p.pad_left == 0 && p.h_in == p.h_out && p.w_in == p.w_out;
  const bool dense = p.y_row == p.w_out * p.y_pixel && p.y_image == p.h_out * p.y_row;
  if (!pointwise || !dense) return p;
  p.w_in = p.w_out = p.n * p.h_in * p.w_in;
  p.n = p.h_in = p.h_out = 1;
  return p;
}

/// One dimension of a phase of the data gradient. The inputs that a strided convolution's tap k reaches are those at
/// i = o * stride + k - pad, so taps of one remainder modulo the stride make up the gradient of every stride-th input:
/// a convolution of dy with stride 1 and those taps in reverse.
struct Phase {
  Index first;    // the first input of this phase
  Index inputs;   // how many there are, `stride` apart
  Index last_tap; // the kernel tap that becomes the first
  Index taps;
  Index pad;
};

Phase make_phase(Index phase, Index stride, Index pad, Index kernel, Index in) {
  Phase p = {};
  p.first = ((phase - pad) % stride + stride) % stride;
  p.inputs = p.first < in ? ceil_div(in - p.first, stride) : 0;
  p.taps = phase < kernel ? ceil_div(kernel - phase, stride) : 0;
  p.last_tap = phase + (p.taps - 1) * stride;
  p.pad = p.taps - 1 - (p.first + pad - phase) / stride;
  return p;
}

template <class T>
void grad_input_phase(const Conv2dGeometry& g, const Phase& rows, const Phase& cols, const T* dy, const T* w, T* dx,
                      bool accumulate, T* workspace) {
  Problem<T> p = {};
  p.x = dy;
  p.y = dx + (rows.first * g.w_in + cols.first) * g.c_in;
  p.y_image = g.h_in * g.w_in * g.c_in;
  p.y_row = g.stride_h * g.w_in * g.c_in;
  p.y_pixel = g.stride_w * g.c_in;
  p.n = g.n, p.c_in = g.c_out, p.h_in = g.h_out, p.w_in = g.w_out;
  p.c_out = g.c_in, p.h_out = rows.inputs, p.w_out = cols.inputs;
  p.kernel_h = rows.taps, p.kernel_w = cols.taps, p.stride_h = 1, p.stride_w = 1;
  p.pad_top = rows.pad, p.pad_left = cols.pad;
  p.accumulate = accumulate;
  p.packed = workspace;
  if (p.h_out == 0 || p.w_out == 0) return;
  if (rows.taps == 0 || cols.taps == 0) {
    if (!accumulate) fill_zero(p);
    return;
  }
  const WeightView<T> view = {w + (rows.last_tap * g.kernel_w + cols.last_tap) * g.c_in, 1,
                              -g.stride_h * g.kernel_w * g.c_in, -g.stride_w * g.c_in,
                              g.kernel_h * g.kernel_w * g.c_in};
  convolve(flatten(p), view);
}

}  // namespace

template <class T>
void conv2d_forward(const Conv2dGeometry& g, const T* x, const T* w, T* y, T* workspace) {
  const Problem<T> p = {x,       y,       g.h_out * g.w_out * g.c_out, g.w_out * g.c_out, g.c_out,    g.n,
                        g.c_in,  g.h_in,  g.w_in,                      g.c_out,           g.h_out,    g.w_out,
                        g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.pad_top, g.pad_left, false, workspace};
  convolve(flatten(p), WeightView<T>{w, g.kernel_h * g.kernel_w * g.c_in, g.kernel_w * g.c_in, g.c_in, 1});
}

template <class T>
void conv2d_grad_input(const Conv2dGeometry& g, const T* dy, const T* w, T* dx, bool accumulate, T* workspace) {
  for (Index i = 0; i < g.stride_h; ++i) {
    const Phase rows = make_phase(i, g.stride_h, g.pad_top, g.kernel_h, g.h_in);
    for (Index j = 0; j < g.stride_w; ++j) {
      const Phase cols = make_phase(j, g.stride_w, g.pad_left, g.kernel_w, g.w_in);
      grad_input_phase(g, rows, cols, dy, w, dx, accumulate, workspace);
    }
  }
}

template void conv2d_forward<float>(const Conv2dGeometry&, const float*, const float*, float*, float*);
template void conv2d_forward<double>(const Conv2dGeometry&, const double*, const double*, double*, double*);
template void conv2d_grad_input<float>(const Conv2dGeometry&, const float*, const float*, float*, bool, float*);
template void conv2d_grad_input<double>(const Conv2dGeometry&, const double*, const double*, double*, bool, double*);

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
