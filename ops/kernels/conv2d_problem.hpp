#pragma once

// The common form of the forward convolution and the phases of its data gradient, for kernel files.

#include <palimpsest/ops/cpu/simd.hpp>
#include <palimpsest/ops/kernels/conv2d_partition.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr Index scratch_bytes = 128 * 1024;  // on the stack: part of an image, rearranged; fits L2 with the rest

template <class T>
constexpr int lanes = simd::Simd<T>::lanes;

/// A convolution with arbitrary steps between output pixels, which is also what the data gradient's phases are.
template <class T>
struct Problem {
  const T* x;  // (n, h_in, w_in, c_in), dense
  T* y;        // pixel (n, i, j) is at y + n * y_image + i * y_row + j * y_pixel
  Index y_image, y_row, y_pixel;
  Index n, c_in, h_in, w_in, c_out, h_out, w_out;
  Index kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  bool accumulate;
  T* packed;  // room for the weights, rearranged
  bool winograd;
};

/// The place of the weight of (output channel o, tap row r, tap s, input channel c): w + o * o_step + r * r_step + ...
template <class T>
struct WeightView {
  const T* w;
  Index o_step, r_step, s_step, c_step;
};

/// The output pixels of one task.
struct Band {
  Index image;
  Range rows, cols;
};

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
