#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// x + bias, one number per channel. x: (N, C, H, W) or (N, C); bias: (C). Works in x's memory where the caller has
/// moved x in and nobody else reads it. Throws ShapeError, DtypeError.
Tensor add_bias(Tensor x, const Tensor& bias);

}  // namespace palimpsest::ops
