// Promises of single ops beyond those of all: memory of temporaries, state, special values.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/bias.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/kernels/activation.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/op_support.hpp"

namespace palimpsest::test {
namespace {

// The promise for a temporary that the caller moves in: its memory, and the same bits.

using Inplace = std::function<Tensor(Tensor&& x, const Tensor& other)>;

struct InplaceCase {
  std::string name;
  Shape other;
  Inplace run;
  bool in_place = true;  // whether it takes the memory
};

std::ostream& operator<<(std::ostream& out, const InplaceCase& inplace) { return out << inplace.name; }

const Shape inplace_shape = {2, 3, 5, 7};

const std::vector<InplaceCase> inplace_cases = {
    {"add", inplace_shape, [](Tensor&& x, const Tensor& other) { return ops::add(other, std::move(x)); }},
    {"add_bias", {3}, [](Tensor&& x, const Tensor& other) { return ops::add_bias(std::move(x), other); }},
    {"couple", inplace_shape, [](Tensor&& x, const Tensor& other) { return ops::couple(other, std::move(x)); }},
    {"couple_on_grid", inplace_shape,
     [](Tensor&& x, const Tensor& other) { return ops::couple(other, std::move(x), 12); }},
    {"round_to_grid", inplace_shape, [](Tensor&& x, const Tensor&) { return ops::round_to_grid(std::move(x), 12); }},
    {"dropout", inplace_shape,
     [](Tensor&& x, const Tensor&) { return ops::dropout(std::move(x), 0.3, std::make_shared<Generator>()); }},
#define CASE(Function, function, ...)                                                                    \
  {#function, inplace_shape,                                                                             \
   [](Tensor&& x, const Tensor&) { return ops::function(std::move(x) __VA_OPT__(, __VA_ARGS__{0.5})); }, \
   kernels::Function::reads != kernels::Reads::Input},
    PALIMPSEST_ACTIVATIONS(CASE)
#undef CASE
};

class InplaceTest : public ::testing::TestWithParam<InplaceCase> {};

INSTANTIATE_TEST_SUITE_P(Ops, InplaceTest, ::testing::ValuesIn(inplace_cases), case_name<InplaceCase>);

struct InplaceOutcome {
  std::vector<std::vector<float>> values;  // the result and the gradients
  std::size_t allocated;                   // bytes that the op's forward took
};

InplaceOutcome run_inplace(const InplaceCase& inplace, bool moved) {
  OpCase inputs;
  inputs.inputs = {{inplace_shape}, {inplace.other, spaced}};  // on the grid
  const std::vector<Tensor> in = make_inputs(inputs, Dtype::Float32);
  Tensor temporary = ops::add(in[0], in[0]);
  const Tensor copy = moved ? Tensor() : temporary;
  const std::size_t before = live_bytes();
  const std::vector<Tensor> y = {inplace.run(std::move(temporary), in[1])};
  const std::size_t after = live_bytes();
  InplaceOutcome outcome = {values_of<float>(y), after - before};
  loss_of(y).backward();
  for (std::vector<float>& gradient : gradients_of<float>(in)) outcome.values.push_back(std::move(gradient));
  return outcome;
}

TEST_P(InplaceTest, TakesTheMemoryOfATemporaryAndGivesTheSameBits) {
  const InplaceOutcome copied = run_inplace(GetParam(), false);
  const InplaceOutcome moved = run_inplace(GetParam(), true);
  EXPECT_EQ(copied.allocated, static_cast<std::size_t>(inplace_shape.count()) * sizeof(float));
  EXPECT_EQ(moved.allocated, GetParam().in_place ? 0U : copied.allocated);
  expect_same_bits(moved.values, copied.values, "result or gradient");
}

TEST(InplaceTest, EveryOpThatWorksInPlaceHasACase) {
  std::set<std::string> known;
  for (const InplaceCase& inplace : inplace_cases) known.insert(inplace.name);
  for (const OpCase& op_case : op_cases()) {
    const std::vector<Tensor> inputs = make_inputs(op_case, Dtype::Float32);
    const std::vector<Tensor> outputs = op_case.run(inputs);
    for (const Node& node : Tape::current()->nodes()) {
      if (node.op->overwritable_input() < 0) continue;
      EXPECT_TRUE(known.contains(std::string(node.op->name()))) << op_case;
    }
  }
}

// State: running statistics and random counters.

ops::RunningStatistics fresh_statistics() {
  return {from_vector<double>({2}, {0.5, -1}), from_vector<double>({2}, {2, 4})};
}

/// Four values for each of two channels: means 2.5 and 5, batch variances 1.25 and 5.
Tensor eight_values() { return from_vector<double>({2, 2, 1, 2}, {1, 2, 2, 4, 3, 4, 6, 8}).requires_grad(); }

Tensor normalise(const Tensor& x, const ops::RunningStatistics& running, const ops::BatchNormOptions& spec) {
  return ops::batch_norm(x, from_vector<double>({2}, {1, 1}), from_vector<double>({2}, {0, 0}), running, spec);
}

TEST(BatchNormTest, RunningVarianceIsThatOfTheSampleOrOfTheBatch) {
  for (const bool unbiased : {true, false}) {
    const ops::RunningStatistics running = fresh_statistics();
    ops::BatchNormOptions spec;
    spec.momentum = 0.25;
    spec.unbiased_running_variance = unbiased;
    normalise(eight_values(), running, spec);
    const double correction = unbiased ? 4.0 / 3.0 : 1.0;
    expect_close(running.mean.to_vector<double>(), {0.75 * 0.5 + 0.25 * 2.5, 0.75 * -1 + 0.25 * 5}, 1e-15);
    expect_close(running.variance.to_vector<double>(),
                 {0.75 * 2 + 0.25 * 1.25 * correction, 0.75 * 4 + 0.25 * 5 * correction}, 1e-15);
  }
}

TEST(BatchNormTest, EvaluationLeavesTheRunningStatistics) {
  const ops::RunningStatistics running = fresh_statistics();
  ops::BatchNormOptions spec;
  spec.training = false;
  weighted_sum(normalise(eight_values(), running, spec), zeros({2, 2, 1, 2}, Dtype::Float64)).backward();
  EXPECT_EQ(running.mean.to_vector<double>(), fresh_statistics().mean.to_vector<double>());
  EXPECT_EQ(running.variance.to_vector<double>(), fresh_statistics().variance.to_vector<double>());
}

TEST(BatchNormTest, ReplayLeavesTheRunningStatisticsToTheFirstForward) {
  const ops::RunningStatistics once = fresh_statistics();
  normalise(eight_values(), once, {});
  const ops::RunningStatistics replayed = fresh_statistics();
  const auto block = std::make_shared<BlockInfo>(BlockInfo{"block", std::make_shared<ReplayEverything>()});
  Tensor loss;
  {
    const BlockScope scope(block, {});
    loss = loss_of(std::vector{ops::relu(normalise(eight_values(), replayed, {}))});
  }
  loss.backward();
  EXPECT_EQ(replayed.mean.to_vector<double>(), once.mean.to_vector<double>());
  EXPECT_EQ(replayed.variance.to_vector<double>(), once.variance.to_vector<double>());
}

/// The identity, which throws.
class Failing : public Op {
 public:
  std::string_view name() const override { return "failing"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }
  void forward(ForwardContext&) override { throw DataError("injected"); }
  void backward(BackwardContext&) override {}
};

/// An op throws in forward, when the step is already under way.
void fail_the_step(const Tensor& x) { EXPECT_THROW(apply_single(std::make_unique<Failing>(), {x}), DataError); }

TEST(BatchNormTest, RunningStatisticsArePutBackWhenTheStepFails) {
  const ops::RunningStatistics running = fresh_statistics();
  const Tensor once = normalise(eight_values(), running, {});
  const Tensor twice = normalise(once, running, {});
  EXPECT_NE(running.mean.to_vector<double>(), fresh_statistics().mean.to_vector<double>());
  fail_the_step(twice);
  EXPECT_EQ(running.mean.to_vector<double>(), fresh_statistics().mean.to_vector<double>());
  EXPECT_EQ(running.variance.to_vector<double>(), fresh_statistics().variance.to_vector<double>());
}

TEST(DropoutTest, ReservesCountersOnceAndReplaysTheMask) {
  const auto generator = std::make_shared<Generator>(Generator{7, 100});
  const Tensor x = eight_values();
  const auto block = std::make_shared<BlockInfo>(BlockInfo{"block", std::make_shared<ReplayEverything>()});
  Tensor loss;
  std::vector<double> y;
  {
    const BlockScope scope(block, {});
    const Tensor dropped = ops::dropout(ops::relu(x), 0.5, generator);
    y = dropped.to_vector<double>();
    loss = weighted_sum(ops::relu(dropped), from_vector(x.shape(), std::vector<double>(8, 1)));
  }
  EXPECT_EQ(generator->offset, 102U);
  generator->reserve(50);  // by whoever comes next
  loss.backward();
  EXPECT_EQ(generator->offset, 152U);
  std::vector<double> mask;
  for (const double value : y) mask.push_back(value != 0 ? 2 : 0);
  EXPECT_EQ(x.grad().to_vector<double>(), mask);
}

TEST(DropoutTest, CountersArePutBackWhenTheStepFails) {
  const auto generator = std::make_shared<Generator>(Generator{7, 100});
  const Tensor y = ops::dropout(ops::dropout(eight_values(), 0.5, generator), 0.5, generator);
  EXPECT_EQ(generator->offset, 104U);
  fail_the_step(y);
  EXPECT_EQ(generator->offset, 100U);
}

TEST(DropoutTest, DrawsAnotherMaskEachTime) {
  const auto generator = std::make_shared<Generator>();
  const Tensor x = from_vector({256}, std::vector<float>(256, 1));
  const std::vector<float> first = ops::dropout(x, 0.5, generator).to_vector<float>();
  EXPECT_NE(first, ops::dropout(x, 0.5, generator).to_vector<float>());
  EXPECT_EQ(first, ops::dropout(x, 0.5, std::make_shared<Generator>()).to_vector<float>());
}

// Values at which functions are not smooth or not finite.

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(ReluTest, ZeroHasNoSignAndTheSmallestNumberStays) {
  const double smallest = std::numeric_limits<double>::denorm_min();
  const std::vector<double> y = ops::relu(from_vector<double>({2}, {-0.0, smallest})).to_vector<double>();
  EXPECT_FALSE(std::signbit(y[0]));
  EXPECT_EQ(y[1], smallest);
}

TEST(ReluTest, NanStaysNanAndZeroTakesNoGradient) {
  const Tensor x = from_vector<double>({4}, {nan, 0, -infinity, infinity}).requires_grad();
  const Tensor y = ops::relu(x);
  const std::vector<double> values = y.to_vector<double>();
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_EQ(values[1], 0);
  EXPECT_EQ(values[2], 0);
  EXPECT_EQ(values[3], infinity);
  weighted_sum(ops::relu(x), from_vector<double>({4}, {1, 1, 1, 1})).backward();
  const std::vector<double> gradient = x.grad().to_vector<double>();
  EXPECT_EQ(gradient[1], 0);
  EXPECT_EQ(gradient[2], 0);
  EXPECT_EQ(gradient[3], 1);
}

TEST(MaxPoolTest, TheFirstLargestTakesTheGradient) {
  const Tensor x = from_vector<double>({1, 1, 2, 4}, {1, 5, 2, 2, 5, 5, 2, 2}).requires_grad();
  weighted_sum(ops::max_pool2d(x, 2, 2), from_vector<double>({1, 1, 1, 2}, {3, 7})).backward();
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{0, 3, 7, 0, 0, 0, 0, 0}));
}

TEST(MaxPoolTest, NanIsLargerThanEverythingAndPaddingSmaller) {
  const Tensor x = from_vector<double>({1, 1, 1, 3}, {infinity, nan, -infinity}).requires_grad();
  const Tensor y = ops::max_pool2d(x, 3, 2, ops::Padding::all(1));
  for (const double value : y.to_vector<double>()) EXPECT_TRUE(std::isnan(value));
  weighted_sum(y, from_vector<double>({1, 1, 1, 2}, {3, 7})).backward();
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{0, 10, 0}));
  const Tensor lowest = from_vector<double>({1, 1, 1, 1}, {-infinity});
  EXPECT_EQ(ops::max_pool2d(lowest, 3, 2, ops::Padding::all(1)).item(), -infinity);
}

TEST(CrossEntropyTest, IsFiniteForLogitsWhoseExponentialsAreNot) {
  const Tensor logits = from_vector<float>({2, 2}, {3e4F, -3e4F, -3e38F, -3e38F}).requires_grad();
  const Tensor loss = ops::cross_entropy(logits, from_vector<std::int32_t>({2}, {1, 0}));
  EXPECT_FLOAT_EQ(static_cast<float>(loss.item()), (6e4F + std::log(2.0F)) / 2);
  loss.backward();
  EXPECT_EQ(logits.grad().to_vector<float>(), (std::vector<float>{0.5F, -0.5F, -0.25F, 0.25F}));
}

TEST(CrossEntropyTest, CountsRowsWhoseFirstLargestElementIsAtTheLabel) {
  const Tensor logits = from_vector<float>({4, 3}, {1, 2, 3, 5, 5, 1, 5, 5, 1, -1, -2, -3});
  EXPECT_EQ(ops::count_correct(logits, from_vector<std::int32_t>({4}, {2, 0, 1, 0})), 3);
  EXPECT_EQ(ops::count_correct(logits, from_vector<std::int32_t>({4}, {2, 0, 1, 0}), {.ignored = 0}), 1);
}

TEST(CrossEntropyTest, CountsPixelsAndLeavesOutIgnoredOnes) {
  const Tensor logits = from_vector<float>({1, 2, 1, 3}, {1, 2, 3, 3, 2, 1});  // class 0, then class 1
  const Tensor labels = from_vector<std::int32_t>({1, 1, 3}, {1, 255, 0});
  EXPECT_EQ(ops::count_correct(logits, labels, {.ignored = 255}), 2);
}

TEST(ConcatTest, OfOneTensorIsThatTensor) {
  const Tensor x = eight_values();
  EXPECT_EQ(&ops::concat(std::vector{x}).value(), &x.value());
}

}  // namespace
}  // namespace palimpsest::test
