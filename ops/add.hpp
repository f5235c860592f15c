#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// a + b, elementwise. Throws ShapeError unless the shapes are equal, DtypeError unless both are of one floating type.
Tensor add(const Tensor& a, Tensor b);

}  // namespace palimpsest::ops
