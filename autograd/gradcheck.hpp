#pragma once

// Gradients against finite differences: how the gradient of an op, or of any function of tensors, is verified.

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest {

/// A function of tensors as gradcheck takes it: the same inputs must give the same bits in every call, so state that a
/// call changes (running statistics, a random generator) has to be made afresh inside.
using TensorFunction = std::function<Tensor(std::span<const Tensor>)>;

/// The strictness of gradcheck().
struct GradcheckOptions {
  double tolerance = 1e-6;        ///< largest relative error of an element of a gradient
  double floor = 1e-3;            ///< elements smaller than this are held to tolerance * floor
  double step = 2e-4;             ///< distance between the four points of a difference quotient
  std::int64_t max_elements = 0;  ///< elements tried of each input, drawn at random from a larger one; 0 for all
  std::uint64_t seed = 1;         ///< of the weights that reduce the result, and of the draw
};

/// The element whose gradient is furthest off.
struct GradcheckResult {
  bool passed = true;
  double worst_error = 0;    ///< |gradient - difference| / max(|gradient|, |difference|, floor)
  std::size_t input = 0;     ///< where that is: the index of the input
  std::int64_t element = 0;  ///< and of the element, in logical order
  double gradient = 0;       ///< what backward says there
  double difference = 0;     ///< what the difference quotient says

  /// One line that says all of it.
  std::string describe() const;
};

/// Compares the gradients of `function` with central differences of fourth order, for every input that wants a gradient
/// (Tensor::requires_grad). The result of `function`, of any shape, is reduced to a scalar by a fixed random weighting.
/// The inputs themselves are not touched: `function` gets copies. It must be smooth within twice `step` of the inputs,
/// so keep those of a ReLU or a maximum away from its kinks.
/// Throws ValueError if no input wants a gradient or if two calls of `function` differ, DtypeError unless those inputs
/// and the result are float64, StateError if the result depends on none of them, DeviceError on a meta device.
GradcheckResult gradcheck(const TensorFunction& function, std::span<const Tensor> inputs,
                          const GradcheckOptions& options = {});

/// The scalar sum of x * weights over all elements, added up in double: a loss through which any gradient can be fed to
/// any op. Weights take no gradient. Throws ShapeError, DtypeError and DeviceError unless x and weights agree.
Tensor weighted_sum(const Tensor& x, const Tensor& weights);

}  // namespace palimpsest
