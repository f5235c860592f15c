#pragma once

#include <span>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// One parameter of a step: all tensors of one shape, element type and device; the velocity is empty without momentum
/// and zero before the first step.
struct SgdUpdate {
  Tensor parameter;
  Tensor gradient;
  Tensor velocity;
  double weight_decay;
};

struct SgdStepOptions {
  double learning_rate = 0.1;
  double momentum = 0;
  bool nesterov = false;
};

/// One step of stochastic gradient descent over all parameters at once, in place: g = gradient + weight_decay *
/// parameter, velocity = momentum * velocity + g, parameter -= learning_rate * (velocity, or g + momentum * velocity
/// with Nesterov).
void sgd_step(std::span<const SgdUpdate> updates, const SgdStepOptions& spec);

}  // namespace palimpsest::ops
