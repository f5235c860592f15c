#pragma once

#include <vector>

#include <palimpsest/nn/module.hpp>

namespace palimpsest::nn {

/// Updates parameters from their gradients. A rehearsal makes and steps one with parameters on a meta device, which
/// have no elements: make the state there as elsewhere (Tensor::zeros), so that its memory is foreseen, and leave the
/// numbers alone where is_meta(parameter.device()); reading or writing them throws DeviceError.
class Optimiser {
 public:
  virtual ~Optimiser() = default;

  /// Drops the gradients of all parameters.
  virtual void zero_grad() = 0;
  /// Updates every parameter that has a gradient. If it throws, no parameter has changed.
  virtual void step() = 0;

  /// The factor of the next step.
  virtual double learning_rate() const = 0;
  /// From the next step on. Throws ValueError for a rate that is negative or no number.
  virtual void set_learning_rate(double rate) = 0;

  /// The tensors beside the parameters that the next step depends on, those that exist so far, named after their
  /// parameters: "conv0.weight.velocity".
  virtual std::vector<NamedTensor> state() const = 0;
};

}  // namespace palimpsest::nn
