#pragma once

#include <utility>
#include <vector>

#include <palimpsest/nn/block.hpp>

namespace palimpsest::nn {

/// A whole model. Derive from Model<Output(Input)> and write forward(); callers use the call operator, which lets a
/// policy that plans a whole step (Policy::covers_the_rest) decide about the ops outside every block, too.
template <class Signature>
class Model;

template <class Output, class Input>
class Model<Output(Input)> : public Module {
 public:
  /// Runs the model. An exception of forward leaves the step failed and parameters and buffers as they were; under
  /// NoGrad nothing is undone. The first call that is recorded also checks that it trains the parameters that it reads:
  /// see check_registered().
  Output operator()(Input input) {
    if (checked_ || !grad_enabled()) return run(std::move(input));
    const std::vector<Tensor> trained = trained_inputs(tensors_of(input));
    Output output = run(std::move(input));
    check_registered(tensors_of(output), trained);
    checked_ = true;
    return output;
  }

 protected:
  Model() : Module(Scope::Model) {}
  virtual Output forward(Input input) = 0;

 private:
  Output run(Input input) {
    return located([&] {
      const BlockScope scope(scope_info()->policy != nullptr ? scope_info() : nullptr, tensors_of(input));
      return forward(std::move(input));
    });
  }

  bool checked_ = false;
};

/// A model that maps images (N, C, H, W) to class scores (N, classes).
using Classifier = Model<Tensor(Tensor)>;

}  // namespace palimpsest::nn
