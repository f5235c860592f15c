#pragma once

#include <vector>

#include <palimpsest/ops/couple.hpp>

namespace palimpsest::ops {

/// The digits of a number: sums of multiples of 2^-bits are exact below 2^(digits - bits).
inline int mantissa_bits(Dtype dtype) { return dtype == Dtype::Float64 ? 53 : 24; }

/// In Op::begin: a buffer that is about to change is put back if the step fails.
void put_back_on_failure(const ForwardContext& io, const Tensor& buffer);

/// See round_to_grid().
class RoundToGrid : public Op {
 public:
  explicit RoundToGrid(int bits) : bits_(bits) {}

  std::string_view name() const override { return "round_to_grid"; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return 0; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override;
  void forward(ForwardContext& io) override;
  void backward(BackwardContext& io) override { io.pass_through(0); }

 protected:
  int bits_;
};

}  // namespace palimpsest::ops
