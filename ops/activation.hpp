#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

// Activations: functions of one element each. Any shape; the result has the shape and type of x. Those whose gradient
// follows from their result (relu, leaky_relu, sigmoid, tanh) keep that instead of x, and work in x's memory where the
// caller has moved x in and nobody else reads it. All throw DtypeError unless x is floating.

/// max(0, x); NaN stays NaN.
Tensor relu(Tensor x);

/// x where x > 0, else slope * x (Maas et al. 2013). Throws ValueError unless 0 <= slope and slope is finite.
Tensor leaky_relu(Tensor x, double slope = 0.01);

/// 1 / (1 + exp(-x)).
Tensor sigmoid(Tensor x);

/// The hyperbolic tangent.
Tensor tanh(Tensor x);

/// x times the standard normal distribution function of x (Hendrycks & Gimpel 2016, equation 1), by the error function,
/// not one of the approximations.
Tensor gelu(Tensor x);

/// x * sigmoid(x) (Elfwing et al. 2017; swish).
Tensor silu(Tensor x);

}  // namespace palimpsest::ops
