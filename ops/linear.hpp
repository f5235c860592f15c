#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// x * weight^T + bias. x: (N, I); weight: (O, I); bias: (O). Returns (N, O). Throws ShapeError, DtypeError.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias);

}  // namespace palimpsest::ops
