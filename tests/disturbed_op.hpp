#pragma once

// Ops that go wrong when they are run again.

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "autograd/tape.hpp"
#include "core/cuda_runtime.hpp"

namespace palimpsest::test {

/// What an op does in the place of its replay.
using Replay = std::function<void(Op& op, Forward& io)>;

/// An op that does something else when it is run again.
class DisturbedOp : public Op {
 public:
  DisturbedOp(std::unique_ptr<Op> op, Replay replay) : op_(std::move(op)), replay_(std::move(replay)) {}

  std::string_view name() const override { return op_->name(); }
  Cost cost() const override { return op_->cost(); }
  Cost cost(std::size_t output) const override { return op_->cost(output); }
  std::vector<Spec> infer(std::span<const Spec> inputs) const override { return op_->infer(inputs); }
  Needs needs() const override { return op_->needs(); }
  int overwritable_input() const override { return op_->overwritable_input(); }
  int solvable_input() const override { return op_->solvable_input(); }
  void solve(std::span<const View> inputs, const View& output, const View& solved) const override {
    op_->solve(inputs, output, solved);
  }
  bool solves_exactly() const override { return op_->solves_exactly(); }
  std::vector<View> state() const override { return op_->state(); }
  void begin(Forward& io) override { op_->begin(io); }
  void forward(Forward& io) override { io.phase() == Phase::Replay ? replay_(*op_, io) : op_->forward(io); }
  bool skip_backward() override { return op_->skip_backward(); }
  void backward(Backward& io) override { op_->backward(io); }

 private:
  std::unique_ptr<Op> op_;
  Replay replay_;
};

/// Lets an op that a step has recorded go wrong. What a tape shows of its nodes is const, the nodes are not.
inline void disturb(const Node& node, Replay replay) {
  std::unique_ptr<Op>& op = const_cast<Node&>(node).op;
  op = std::make_unique<DisturbedOp>(std::move(op), std::move(replay));
}

/// Flips one bit of a tensor's bytes, behind everybody's back.
inline void flip_bit(const View& view, std::size_t bit) {
  unsigned char byte = 0;
  unsigned char* const at = view.as<unsigned char>() + bit / 8;
  copy_bytes(&byte, Device::Cpu, at, view.device, 1);
  byte = static_cast<unsigned char>(byte ^ (1U << bit % 8));
  copy_bytes(at, view.device, &byte, Device::Cpu, 1);
}

/// The output that a run of an op writes.
inline const View& written(const Forward& io) {
  std::size_t o = 0;
  while (!io.output(o)) ++o;
  return io.output(o);
}

}  // namespace palimpsest::test
