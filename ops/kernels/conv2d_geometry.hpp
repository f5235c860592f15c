#pragma once

#include <palimpsest/core/shape.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/kernels/conv2d.hpp>

namespace palimpsest::ops {

/// The shape of the convolution of x that gives y, as kernels know it.
inline kernels::Conv2dGeometry geometry_of(const Shape& x, const Shape& weight, const Shape& y,
                                           const Conv2dOptions& spec) {
  return {.n = x.n(),
          .c_in = x.c(),
          .h_in = x.h(),
          .w_in = x.w(),
          .c_out = weight[0],
          .h_out = y.h(),
          .w_out = y.w(),
          .kernel_h = weight[2],
          .kernel_w = weight[3],
          .stride_h = spec.stride,
          .stride_w = spec.stride,
          .pad_top = spec.padding.top,
          .pad_left = spec.padding.left,
          .products = spec.products};
}

/// Arithmetic of one convolution that gives y, or of one of its two gradients.
inline double convolution_operations(const Shape& weight, const Shape& y) {
  return 2.0 * static_cast<double>(y.count()) * static_cast<double>(weight.count() / weight[0]);
}

}  // namespace palimpsest::ops
