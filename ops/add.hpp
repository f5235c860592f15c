#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// a + b, elementwise. Throws ShapeError unless the shapes are equal, DtypeError unless both are of one floating type.
Tensor add(const Tensor& a, Tensor b);

/// factor * x, elementwise, of any shape: a weighted loss, say. Keeps nothing for backward, and works in the memory of
/// x where the caller has moved x in and nobody else reads it. Throws ValueError unless the factor is finite,
/// DtypeError unless x is floating.
Tensor scale(Tensor x, double factor);

}  // namespace palimpsest::ops
