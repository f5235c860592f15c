#pragma once

#include <string>
#include <vector>

#include <palimpsest/nn/optimiser.hpp>

namespace palimpsest::nn {

/// The rule of an update; see Sgd.
struct SgdOptions {
  double learning_rate = 0.1;
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 1e-4;
  bool decay_norm_and_bias = true;  ///< decay all parameters, or only the weights of convolutions and linear layers
  bool check_finite = true;         ///< refuse gradients that are infinite or no number; one pass over them
};

/// Stochastic gradient descent with momentum, PyTorch's formula with dampening 0 (Sutskever et al. 2013).
class Sgd : public Optimiser {
 public:
  /// A parameter that is listed twice is stepped once. Throws ValueError for a rate, momentum or decay that is negative
  /// or no number, or Nesterov without momentum, DtypeError or DeviceError unless all parameters have one element type
  /// and device.
  Sgd(std::vector<NamedTensor> parameters, const SgdOptions& spec);

  /// Steps every parameter that has a gradient. Velocities are allocated in the first step, before any parameter
  /// changes: OutOfMemory leaves everything as it was. Throws NonFiniteError, naming the first parameter whose gradient
  /// is infinite or no number, before anything changes (SgdOptions::check_finite); on CUDA the host waits for the
  /// device to know. See GradientGuard for a check that spares running statistics, too.
  void step() override;
  void set_check_finite(bool on) override { spec_.check_finite = on; }
  void zero_grad() override;

  double learning_rate() const override { return spec_.learning_rate; }
  void set_learning_rate(double rate) override;

  /// The velocities.
  std::vector<NamedTensor> state() const override;
  /// Makes those that do not exist yet, of parameters without a step so far.
  void set_state(std::span<const NamedTensor> state) override;

 private:
  struct Slot {
    std::string name;
    Tensor parameter;
    Tensor velocity;  // empty before the first step with a gradient
    double weight_decay;
  };

  static Tensor make_velocity(const Slot& slot);
  void allocate_velocities();

  std::vector<Slot> slots_;
  SgdOptions spec_;
};

}  // namespace palimpsest::nn
