#pragma once

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/ops/padding.hpp>
#include <palimpsest/ops/product.hpp>

namespace palimpsest::ops {

struct Conv2dOptions {
  std::int64_t stride = 1;
  Padding padding = {};  ///< zeros
  ProductOptions products = {};
};

/// 2-D convolution (cross-correlation). x: (N, C, H, W); weight: (K, C, R, S); returns (N, K, H', W') with
/// H' = (H + top + bottom - R) / stride + 1, rounded down, and W' alike. Move in what batch_norm() returns where nobody
/// else reads it: the two become one op (ops/norm_conv.hpp) unless the images are too large for that.
/// Throws ShapeError unless the channels agree and the kernel fits into the padded image, ValueError for a stride below
/// 1, a negative padding or a bound of no bytes on columns, DtypeError.
Tensor conv2d(Tensor x, const Tensor& weight, const Conv2dOptions& spec = {});

}  // namespace palimpsest::ops
