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
  std::vector<Spec> infer(std::span<const Spec> inputs) const override;
  void forward(Forward& io) override;
  void backward(Backward& io) override;
};

}  // namespace palimpsest::ops
