#pragma once

// The op behind concat(), for the ops that read its inputs where they are.

#include <palimpsest/autograd/op.hpp>

namespace palimpsest::ops {

/// Any number of inputs, joined along their channels. Throws as concat() does.
class Concat : public Op {
 public:
  std::string_view name() const override { return "concat"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override;
  void forward(ForwardContext& io) override;
  void backward(BackwardContext& io) override;
};

}  // namespace palimpsest::ops
