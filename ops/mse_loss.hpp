#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// The mean squared error: the mean over all elements of (x - target)^2, added up in double. x and target: of one
/// shape, any. Returns a scalar. Either may want a gradient: 2 (x - target) / elements for x, its negative for target.
/// Throws ShapeError unless the shapes are equal, DtypeError unless both are of one floating type.
Tensor mse_loss(const Tensor& x, const Tensor& target);

}  // namespace palimpsest::ops
