#pragma once

#include <utility>
#include <vector>

#include <palimpsest/nn/module.hpp>

namespace palimpsest::nn {

/// Lists the tensors of a block's or a model's input or output. A type of your own that these take or return needs an
/// overload in its own namespace.
inline std::vector<Tensor> tensors_of(const Tensor& tensor) { return {tensor}; }
inline std::vector<Tensor> tensors_of(const std::vector<Tensor>& tensors) { return tensors; }

/// A module that is a unit of memory policy: a dense block, a reversible unit, a transition. Derive from
/// Block<Output(Input)> and write forward(); callers use the call operator, which lets the policy see the inputs.
template <class Signature>
class Block;

template <class Output, class Input>
class Block<Output(Input)> : public Module {
 public:
  /// Runs the block. An exception of forward leaves the step failed and parameters and buffers as they were; under
  /// NoGrad nothing is undone.
  Output operator()(Input input) {
    return located([&] {
      const BlockScope scope(scope_info(), tensors_of(input));
      return forward(std::move(input));
    });
  }

 protected:
  Block() : Module(Scope::Block) {}
  virtual Output forward(Input input) = 0;
};

}  // namespace palimpsest::nn
