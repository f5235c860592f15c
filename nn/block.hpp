#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/module.hpp>

namespace palimpsest::nn {

/// Lists the tensors of a block's input, for the policy. A type of your own that blocks take needs an overload in its
/// own namespace.
inline std::vector<Tensor> tensors_of(const Tensor& tensor) { return {tensor}; }
inline std::vector<Tensor> tensors_of(const std::vector<Tensor>& tensors) { return tensors; }

/// A module that is a unit of memory policy: a dense block, a reversible unit, a transition. Derive from
/// Block<Output(Input)> and write forward(); callers use the call operator, which lets the policy see what enters.
template <class Signature>
class Block;

template <class Output, class Input>
class Block<Output(Input)> : public Module {
 public:
  /// Runs the block. Whatever forward throws leaves the step failed and parameters and buffers as they were.
  Output operator()(Input input) {
    const BlockScope scope(info_, tensors_of(input));
    return forward(std::move(input));
  }

 protected:
  virtual Output forward(Input input) = 0;
  BlockInfo* block_info() override { return info_.get(); }

 private:
  std::shared_ptr<BlockInfo> info_ = std::make_shared<BlockInfo>(BlockInfo{"", memory::store_all()});
};

}  // namespace palimpsest::nn
