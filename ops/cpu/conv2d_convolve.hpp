#pragma once

// Forward convolution and its data gradient, for kernel files. Both come down to a convolution with arbitrary steps
// between the output pixels, for which there are three kernels: output channels in the lanes of vectors, or output
// pixels, or Winograd's algorithm.

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/cpu/conv2d_channels.hpp>
#include <palimpsest/ops/cpu/conv2d_pixels.hpp>
#include <palimpsest/ops/cpu/conv2d_winograd.hpp>
#include <palimpsest/ops/kernels/conv2d_problem.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

template <class T>
void convolve_by_tap(Problem<T> p, const WeightView<T>& view);

/// Packs the weights into p.packed: the same way for any number of images, unless flatten() has made them one row.
template <class T>
void pack(const Problem<T>& p, const WeightView<T>& view) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (p.winograd) return pack_winograd(p, view);
  }
  if (prefer_pixels(p)) return pack_pixel_weights(p, view);
  const Tiling tiling = choose_tiling(p);
  if (!tiling.by_tap) pack_weights(p, view, tiling);
}

/// After pack(). A kernel as large as convolve_by_tap() says has p.packed written all the same.
template <class T>
void convolve_packed(const Problem<T>& p, const WeightView<T>& view) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (p.winograd) return convolve_winograd(p);
  }
  if (prefer_pixels(p)) return convolve_pixels(p);
  const Tiling tiling = choose_tiling(p);
  if (tiling.by_tap) return convolve_by_tap(p, view);
  convolve_channels(p, tiling);
}

template <class T>
void convolve(const Problem<T>& p, const WeightView<T>& view) {
  pack(p, view);
  convolve_packed(p, view);
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

/// For kernels so large that one output's input does not fit the scratch: each tap is a 1x1 convolution over the
/// outputs for which it reads inside of x, added to y.
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
  Index first;     // the first input of this phase
  Index inputs;    // how many there are, `stride` apart
  Index last_tap;  // the kernel tap that becomes the first
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
Problem<T> forward_problem(const Conv2dGeometry& g, const T* x, T* y, T* packed) {
  Problem<T> p = {};
  p.x = x;
  p.y = y;
  p.y_image = g.h_out * g.w_out * g.c_out;
  p.y_row = g.w_out * g.c_out;
  p.y_pixel = g.c_out;
  p.n = g.n, p.c_in = g.c_in, p.h_in = g.h_in, p.w_in = g.w_in;
  p.c_out = g.c_out, p.h_out = g.h_out, p.w_out = g.w_out;
  p.kernel_h = g.kernel_h, p.kernel_w = g.kernel_w, p.stride_h = g.stride_h, p.stride_w = g.stride_w;
  p.pad_top = g.pad_top, p.pad_left = g.pad_left;
  p.packed = packed;
  p.winograd = winograd_forward(g, sizeof(T));
  return flatten(p);
}

template <class T>
WeightView<T> forward_weights(const Conv2dGeometry& g, const T* w) {
  return {w, g.kernel_h * g.kernel_w * g.c_in, g.kernel_w * g.c_in, g.c_in, 1};
}

template <class T>
Problem<T> phase_problem(const Conv2dGeometry& g, const Phase& rows, const Phase& cols, const T* dy, T* dx,
                         bool accumulate, T* packed) {
  Problem<T> p = {};
  p.x = dy;
  if (dx != nullptr) p.y = dx + (rows.first * g.w_in + cols.first) * g.c_in;
  p.y_image = g.h_in * g.w_in * g.c_in;
  p.y_row = g.stride_h * g.w_in * g.c_in;
  p.y_pixel = g.stride_w * g.c_in;
  p.n = g.n, p.c_in = g.c_out, p.h_in = g.h_out, p.w_in = g.w_out;
  p.c_out = g.c_in, p.h_out = rows.inputs, p.w_out = cols.inputs;
  p.kernel_h = rows.taps, p.kernel_w = cols.taps, p.stride_h = 1, p.stride_w = 1;
  p.pad_top = rows.pad, p.pad_left = cols.pad;
  p.accumulate = accumulate;
  p.packed = packed;
  p.winograd = winograd_gradient(g, sizeof(T));
  return flatten(p);
}

/// Calls body(problem, weights) for the convolutions that make up the data gradient and have taps. Inputs
/// that outputs leave without any get a gradient of 0. Each problem has its own place for packed weights.
template <class T, class Body>
void for_each_phase(const Conv2dGeometry& g, const T* dy, const T* w, T* dx, bool accumulate, T* packed,
                    const Body& body) {
  for (Index i = 0; i < g.stride_h; ++i) {
    const Phase rows = make_phase(i, g.stride_h, g.pad_top, g.kernel_h, g.h_in);
    for (Index j = 0; j < g.stride_w; ++j) {
      const Phase cols = make_phase(j, g.stride_w, g.pad_left, g.kernel_w, g.w_in);
      const Problem<T> p = phase_problem(g, rows, cols, dy, dx, accumulate, packed);
      if (p.h_out == 0 || p.w_out == 0) continue;
      if (rows.taps == 0 || cols.taps == 0) {
        if (!accumulate && dx != nullptr) fill_zero(p);
        continue;
      }
      packed += rows.taps * cols.taps * g.c_out * round_up(g.c_in, max_lanes);
      body(p, WeightView<T>{w + (rows.last_tap * g.kernel_w + cols.last_tap) * g.c_in, 1,
                            -g.stride_h * g.kernel_w * g.c_in, -g.stride_w * g.c_in, g.kernel_h * g.kernel_w * g.c_in});
    }
  }
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
