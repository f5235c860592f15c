#pragma once

#include <vector>

#include <palimpsest/nn/module.hpp>

namespace palimpsest::nn {

/// Updates parameters from their gradients.
class Optimiser {
 public:
  virtual ~Optimiser() = default;
  virtual void zero_grad() = 0;
  virtual void step() = 0;
  virtual double learning_rate() const = 0;
  virtual void set_learning_rate(double rate) = 0;
};

}  // namespace palimpsest::nn
