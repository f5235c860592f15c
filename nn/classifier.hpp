#pragma once

#include "nn/module.hpp"

namespace palimpsest::nn {

/// A model that maps images to class scores.
class Classifier : public Module {
 public:
  /// images: (N, C, H, W). Returns the logits, (N, classes).
  Tensor operator()(const Tensor& images) { return forward(images); }

 protected:
  virtual Tensor forward(const Tensor& images) = 0;
};

}  // namespace palimpsest::nn
