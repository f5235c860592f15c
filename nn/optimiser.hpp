#pragma once

#include <span>
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
  /// Turns on or off that step() itself looks for gradients that are infinite or no number, where it knows how to.
  /// Those who have looked at them, as the library's training step does, turn it off.
  virtual void set_check_finite(bool) {}

  /// The factor of the next step.
  virtual double learning_rate() const = 0;
  /// From the next step on. Throws ValueError for a rate that is negative or no number.
  virtual void set_learning_rate(double rate) = 0;

  /// The tensors beside the parameters that the next step depends on, those that exist so far, named after their
  /// parameters: "conv0.weight.velocity".
  virtual std::vector<NamedTensor> state() const = 0;
  /// Overwrites state by its names, as state() gives it: momentum that an earlier run has saved, say. State that is not
  /// named stays. Throws ValueError for a name that state() does not have, ShapeError and DtypeError like
  /// Tensor::assign(); then nothing has changed.
  virtual void set_state(std::span<const NamedTensor> state);
};

}  // namespace palimpsest::nn
