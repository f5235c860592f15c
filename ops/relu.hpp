#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// max(0, x), elementwise; NaN stays NaN. Any shape. Works in x's memory where the caller has moved x in and nobody
/// else reads it. Throws DtypeError unless x is floating.
Tensor relu(Tensor x);

}  // namespace palimpsest::ops
