#pragma once

// CPU kernel of stochastic gradient descent with momentum, T = float and double.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// One tensor of parameters to step. Its arrays overlap neither each other nor those of another tensor.
template <class T>
struct SgdTensor {
  std::int64_t count;
  T* parameter;
  const T* gradient;
  T* velocity;          // null where momentum is 0
  double weight_decay;  // wd
  bool first_step;      // the velocity is not read, only written
};

/// The constants of all tensors of a step.
struct SgdOptions {
  double learning_rate;
  double momentum;
  bool nesterov;  // needs momentum
};

PALIMPSEST_KERNELS(

    /// One step of all `tensors`, with g = gradient + wd * parameter:
    ///   velocity = momentum * velocity + g   (g in a tensor's first step)
    ///   parameter -= learning_rate * (nesterov ? g + momentum * velocity : velocity)
    /// and parameter -= learning_rate * g for a tensor without velocity. This is PyTorch's SGD with dampening 0, and
    /// Sutskever et al. 2013 with the learning rate outside the velocity.
    template <class T> void sgd_step(std::int64_t tensors, const SgdTensor<T>* list, const SgdOptions& spec);)

}  // namespace palimpsest::kernels
