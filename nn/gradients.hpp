#pragma once

#include <span>
#include <vector>

#include <palimpsest/nn/module.hpp>

namespace palimpsest::nn {

/// The treatment of gradients between backward and an optimiser's step.
struct GradientOptions {
  bool check_finite = true;  ///< an infinite gradient, or one that is no number, is a NonFiniteError
  double clip_value = 0;     ///< elements beyond +- this are put there; 0: none are
  /// Gradients whose norm together is above this are scaled down to it, after clip_value; 0: none are (Pascanu et al.
  /// 2013, algorithm 1).
  double clip_norm = 0;
};

/// The Euclidean norm of the gradients of all parameters together, added up in double: the same bits for any number of
/// threads. Infinite or no number if a gradient is. A parameter without a gradient counts for nothing, one that is
/// listed twice once (as in all functions here). On CUDA the host waits for the device, once. Throws DtypeError,
/// DeviceError unless all gradients have one element type and device (as all here do).
double gradient_norm(std::span<const NamedTensor> parameters);

/// Throws NonFiniteError, naming the first parameter whose gradient is infinite or no number.
void check_gradients(std::span<const NamedTensor> parameters);

/// Scales the gradients so that their norm together is at most max_norm: by max_norm / norm if it is above. Returns the
/// norm that they had. Throws NonFiniteError like check_gradients(), which this includes, and ValueError unless
/// max_norm is a positive number; then nothing has changed.
double clip_gradient_norm(std::span<const NamedTensor> parameters, double max_norm);

/// Puts the elements of all gradients that are beyond [-max_value, max_value] at the nearer end; NaN stays NaN. Throws
/// ValueError unless max_value is a positive number.
void clip_gradient_value(std::span<const NamedTensor> parameters, double max_value);

/// Looks at the gradients of one backward, and clips them, before they are added to the parameters' own: it is handed
/// to Tensor::backward(). An exception of it fails the step, so that not only parameters are as they were, but
/// gradients, running statistics and random counters, too.
///
///   const nn::GradientGuard guard(net.parameters(), {.clip_norm = 1});
///   loss.backward(guard);
///
/// A gradient that several backwards add up to is clipped as the sum: clip_gradient_norm() before the optimiser's step.
class GradientGuard {
 public:
  /// Throws ValueError for a bound that is negative or no number.
  explicit GradientGuard(std::vector<NamedTensor> parameters, const GradientOptions& options = {});

  /// Throws NonFiniteError, naming the first of the parameters whose gradient is infinite or no number, if asked to.
  void operator()(std::span<const LeafGradient> found) const;

 private:
  std::vector<NamedTensor> parameters_;
  GradientOptions options_;
};

}  // namespace palimpsest::nn
