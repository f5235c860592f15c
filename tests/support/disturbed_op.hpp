#pragma once

// Ops that go wrong when they are run again.

#include <functional>
#include <memory>
#include <utility>

#include <palimpsest/core/device.hpp>
#include "tests/support/forwarding.hpp"

namespace palimpsest::test {

/// The replacement of an op's replay.
using Replay = std::function<void(Op& op, ForwardContext& io)>;

/// An op that has run and does something else when it is run again.
class DisturbedOp : public ForwardingOp {
 public:
  DisturbedOp(std::unique_ptr<Op> op, Replay replay) : ForwardingOp(std::move(op)), replay_(std::move(replay)) {}

  void forward(ForwardContext& io) override { replay_(op(), io); }

 private:
  Replay replay_;
};

/// Lets an op that a step has recorded go wrong.
inline void disturb(const Node& node, const Replay& replay) {
  replace_op(node, [&](std::unique_ptr<Op> op) { return std::make_unique<DisturbedOp>(std::move(op), replay); });
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
inline const View& written(const ForwardContext& io) {
  std::size_t o = 0;
  while (!io.output(o)) ++o;
  return io.output(o);
}

}  // namespace palimpsest::test
