// Every op, through every case of op_cases.hpp: replay, the meta device, leaks, bad inputs.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <typeinfo>
#include <vector>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include "tests/support/op_support.hpp"

namespace palimpsest::test {
namespace {

/// The case between two other ops, so that its inputs and its outputs are values that a policy may give up.
std::vector<Tensor> run_in_the_middle(const OpCase& op_case, std::span<const Tensor> inputs) {
  std::vector<Tensor> before;
  for (const Tensor& input : inputs) before.push_back(input.dtype() == Dtype::Int32 ? input : ops::add(input, input));
  std::vector<Tensor> after;
  for (const Tensor& output : op_case.run(before)) after.push_back(ops::relu(output));
  return after;
}

void expect_outputs_absent() {
  for (const Node& node : Tape::current()->nodes()) {
    if (node.block == nullptr) continue;
    for (const ValuePtr& output : node.outputs)
      EXPECT_FALSE(output->present()) << node.op->name() << " kept its output";
  }
}

TEST_P(OpTest, ReplayGivesTheSameBits) {
  const auto kept = [](std::span<const Tensor> inputs) { return run_in_the_middle(GetParam(), inputs); };
  const auto expected = run_step<float>(kept, make_inputs(GetParam(), Dtype::Float32));
  const auto inputs = make_inputs(GetParam(), Dtype::Float32);
  const auto block = std::make_shared<BlockInfo>(BlockInfo{"block", std::make_shared<ReplayEverything>()});
  Tensor loss;
  {
    std::vector<Tensor> outputs;
    {
      const BlockScope scope(block, inputs);
      outputs = run_in_the_middle(GetParam(), inputs);
    }
    loss = loss_of(outputs);
  }
  expect_outputs_absent();
  loss.backward();
  expect_same_bits(gradients_of<float>(inputs), expected.gradients, "the gradient of input");
}

/// Views of values that are as large as these, wherever those are.
std::vector<View> views_like(std::span<const ValuePtr> values) {
  static std::byte present;
  std::vector<View> views;
  for (const ValuePtr& value : values) views.push_back({&present, value->shape(), value->dtype(), value->device()});
  return views;
}

/// More than an operation for each element that it makes.
void expect_operations_said(const Node& node) {
  SCOPED_TRACE(std::string(node.op->name()));
  const std::vector<View> inputs = views_like(node.inputs);
  const std::vector<View> outputs = views_like(node.outputs);
  const std::vector<bool> wanted(inputs.size(), true);
  EXPECT_THROW(node.op->Op::forward_work(inputs, outputs), StateError) << "a heavy op that says nothing is refused";
  EXPECT_THROW(node.op->Op::backward_work(inputs, outputs, wanted), StateError);
  const auto elements = static_cast<double>(outputs[0].shape.count());
  EXPECT_GT(node.op->forward_work(inputs, outputs).operations, elements);
  EXPECT_GT(node.op->backward_work(inputs, outputs, wanted).operations, elements);
}

TEST(OpWork, EveryHeavyOpSaysItsOperations) {
  std::set<std::string> heavy;
  for (const OpCase& op_case : op_cases()) {
    const std::vector<Tensor> outputs = op_case.run(make_inputs(op_case, Dtype::Float32));
    for (const Node& node : Tape::current()->nodes()) {
      if (node.op->cost() != Cost::Heavy) continue;
      heavy.insert(std::string(node.op->name()));
      expect_operations_said(node);
    }
  }
  EXPECT_TRUE(heavy.contains("conv2d") && heavy.contains("linear"));
}

/// A step as seen from outside: shapes and bytes.
struct Footprint {
  std::vector<Shape> outputs;
  std::vector<Shape> gradients;
  std::size_t forward_peak = 0;  // bytes above what the inputs hold
  std::size_t peak = 0;
  std::size_t kept = 0;
};

Footprint footprint_on(Device where, Dtype dtype) {
  const std::vector<Tensor> inputs = make_inputs(OpTest::GetParam(), dtype, where);
  Allocator& memory = allocator(where);
  memory.reset_peak();
  const std::size_t before = memory.stats().live;
  Footprint footprint;
  {
    const std::vector<Tensor> outputs = OpTest::GetParam().run(inputs);
    footprint.forward_peak = memory.stats().peak - before;
    for (const Tensor& output : outputs) footprint.outputs.push_back(output.shape());
    loss_of(outputs).backward();
  }
  footprint.peak = memory.stats().peak - before;
  footprint.kept = memory.stats().live - before;
  for (const Tensor& input : inputs) footprint.gradients.push_back(input.grad() ? input.grad().shape() : Shape{});
  return footprint;
}

TEST_P(OpTest, MetaDeviceGivesTheShapesAndThePeakOfTheDevice) {
  for (const Dtype dtype : {Dtype::Float32, Dtype::Float64}) {
    SCOPED_TRACE(to_string(dtype));
    const Footprint meta = footprint_on(meta_device(), dtype);
    const Footprint measured = footprint_on(device(), dtype);
    EXPECT_EQ(meta.outputs, measured.outputs);
    EXPECT_EQ(meta.gradients, measured.gradients);
    EXPECT_EQ(meta.forward_peak, measured.forward_peak);
    EXPECT_EQ(meta.peak, measured.peak);
    EXPECT_EQ(meta.kept, measured.kept);
  }
}

TEST_P(OpTest, LeavesNoBytesBehind) {
  const std::size_t before = live_bytes();
  run_case<float>(GetParam());
  EXPECT_EQ(live_bytes(), before);
  GetParam().run(make_inputs(GetParam(), Dtype::Float32));  // and if backward never comes
  EXPECT_EQ(live_bytes(), before);
}

/// Expects an exception of this very type from the case when input i is replaced, and no bytes left behind.
template <class Expected>
void expect_refused(const OpCase& op_case, std::size_t i, const std::function<Tensor(const Tensor&)>& replace) {
  SCOPED_TRACE(concat_text("input ", i, " replaced"));
  const std::size_t before = live_bytes();
  {
    std::vector<Tensor> inputs = make_inputs(op_case, Dtype::Float32);
    inputs[i] = replace(inputs[i]);
    EXPECT_THROW(op_case.run(inputs), Expected);
  }
  EXPECT_EQ(live_bytes(), before);
}

Tensor with_dtype(const Tensor& tensor, Dtype dtype) { return zeros(tensor.shape(), dtype); }

TEST_P(OpTest, RefusesEmptyTensors) {
  for (std::size_t i = 0; i < GetParam().inputs.size(); ++i) {
    expect_refused<ValueError>(GetParam(), i, [](const Tensor&) { return Tensor(); });
  }
}

TEST_P(OpTest, RefusesMixedAndForeignDtypes) {
  const std::vector<OpInput>& inputs = GetParam().inputs;
  const auto floating = std::count_if(inputs.begin(), inputs.end(), [](const OpInput& input) { return !input.labels; });
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Dtype foreign = inputs[i].labels ? Dtype::Float32 : Dtype::Int32;
    expect_refused<DtypeError>(GetParam(), i, [&](const Tensor& input) { return with_dtype(input, foreign); });
    if (floating < 2 || inputs[i].labels) continue;
    expect_refused<DtypeError>(GetParam(), i, [](const Tensor& input) { return with_dtype(input, Dtype::Float64); });
  }
}

TEST_P(SeveralInputsOpTest, RefusesMixedDevices) {
  for (std::size_t i = 0; i < GetParam().inputs.size(); ++i) {
    expect_refused<DeviceError>(
        GetParam(), i, [](const Tensor& input) { return Tensor::empty(input.shape(), input.dtype(), meta_device()); });
  }
}

TEST_P(OpTest, WithoutGradientGivesTheSameBitsAndRecordsNothing) {
  const auto expected = run_case<float>(GetParam()).outputs;
  const std::vector<Tensor> inputs = make_inputs(GetParam(), Dtype::Float32);
  const std::size_t before = live_bytes();
  {
    const NoGrad no_grad;
    const std::vector<Tensor> outputs = GetParam().run(inputs);
    if (GetParam().fuses) {
      expect_close(values_of<float>(outputs), in_double(expected), GetParam().float32_tolerance);
    } else {
      expect_same_bits(values_of<float>(outputs), expected, "output");
    }
    EXPECT_EQ(Tape::current(), nullptr);
    std::size_t bytes = 0;
    for (const Tensor& output : outputs) {
      EXPECT_TRUE(output.value().leaf());
      bytes += output.value().bytes();
    }
    EXPECT_LE(live_bytes(), before + bytes) << "something else than the outputs is kept";
  }
  EXPECT_EQ(live_bytes(), before);
}

class BadCallTest : public ::testing::TestWithParam<BadCall> {};

INSTANTIATE_TEST_SUITE_P(Ops, BadCallTest, ::testing::ValuesIn(bad_calls()), case_name<BadCall>);

TEST_P(BadCallTest, ThrowsItsErrorAndLeavesNoBytesBehind) {
  const std::size_t before = live_bytes();
  try {
    GetParam().call();
    synchronize(device());  // what a kernel has found is told by the next read
    ADD_FAILURE() << "nothing was thrown";
  } catch (const std::exception& error) {
    EXPECT_TRUE(GetParam().has_type(error)) << "threw " << typeid(error).name() << ": " << error.what();
    EXPECT_NE(std::string(error.what()).find(GetParam().message), std::string::npos) << "said: " << error.what();
  }
  EXPECT_EQ(live_bytes(), before);
}

}  // namespace
}  // namespace palimpsest::test
