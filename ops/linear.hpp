#pragma once

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/ops/product.hpp>

namespace palimpsest::ops {

/// x * weight^T + bias. x: (N, I); weight: (O, I); bias: (O). Returns (N, O). The precision alone
/// counts of `products`. Throws ShapeError, DtypeError.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const ProductOptions& products = {});

}  // namespace palimpsest::ops
