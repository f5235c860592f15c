// Every op, through every case of op_cases.hpp: forward against naive references, gradients against finite differences,
// float32 against float64, threads, accumulation, replay, the meta device and bad inputs. Then what single ops promise
// beyond that.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "autograd/gradcheck.hpp"
#include "autograd/tape.hpp"
#include "core/cuda_runtime.hpp"
#include "core/memory.hpp"
#include "core/parallel.hpp"
#include "memory/recipes.hpp"
#include "ops/add.hpp"
#include "ops/batch_norm.hpp"
#include "ops/bias.hpp"
#include "ops/concat.hpp"
#include "ops/couple.hpp"
#include "ops/cross_entropy.hpp"
#include "ops/dropout.hpp"
#include "ops/pool.hpp"
#include "ops/relu.hpp"
#include "tests/op_support.hpp"

namespace palimpsest::test {
namespace {

/// Sets the number of threads for as long as it lives.
class Threads {
 public:
  explicit Threads(int threads) : before_(thread_count()) { set_thread_count(threads); }
  ~Threads() { set_thread_count(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

class OpTest : public ::testing::TestWithParam<OpCase> {};

class SmoothOpTest : public OpTest {};
class RoundingOpTest : public OpTest {};
class IntegerOpTest : public OpTest {};
class SeveralInputsOpTest : public OpTest {};

bool rounds(const OpCase& op_case) { return op_case.straight_through != nullptr; }

INSTANTIATE_TEST_SUITE_P(Ops, OpTest, ::testing::ValuesIn(op_cases()), case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Ops, SmoothOpTest, ::testing::ValuesIn(cases_where(std::not_fn(rounds))), case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Ops, RoundingOpTest, ::testing::ValuesIn(cases_where(rounds)), case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Ops, IntegerOpTest, ::testing::ValuesIn(cases_where([](const OpCase& op_case) {
                           return op_case.exact_on_integers;
                         })),
                         case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Ops, SeveralInputsOpTest, ::testing::ValuesIn(cases_where([](const OpCase& op_case) {
                           return op_case.inputs.size() > 1;
                         })),
                         case_name<OpCase>);

TEST_P(OpTest, ForwardMatchesNaiveReference) {
  const std::vector<Tensor> inputs = make_inputs(GetParam(), Dtype::Float64);
  std::vector<Array> arrays;
  for (const Tensor& input : inputs) {
    arrays.push_back({input.shape(), {}});
    if (input.dtype() == Dtype::Int32) {
      for (const std::int32_t label : input.to_vector<std::int32_t>()) arrays.back().values.push_back(label);
    } else {
      arrays.back().values = input.to_vector<double>();
    }
  }
  const std::vector<Array> expected = GetParam().reference(arrays);
  const std::vector<Tensor> outputs = GetParam().run(inputs);
  ASSERT_EQ(outputs.size(), expected.size());
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    SCOPED_TRACE(o);
    EXPECT_EQ(outputs[o].shape(), expected[o].shape);
    expect_close(outputs[o].to_vector<double>(), expected[o].values, 1e-12);
  }
}

TEST_P(SmoothOpTest, GradientsMatchFiniteDifferences) {
  const auto reduced = [](std::span<const Tensor> inputs) {
    const std::vector<Tensor> outputs = GetParam().run(inputs);
    return outputs.size() == 1 ? outputs[0] : loss_of(outputs);
  };
  const std::vector<Tensor> inputs = make_inputs(GetParam(), Dtype::Float64);
  std::int64_t largest = 0;
  for (const Tensor& input : inputs) largest = std::max(largest, input.shape().count());
  GradcheckOptions options;
  options.max_elements = largest > 5000 ? 16 : 100;
  if (emulated()) options.max_elements = 4;
  const Threads one(1);  // thousands of small forwards
  const GradcheckResult result = gradcheck(reduced, inputs, options);
  EXPECT_TRUE(result.passed) << result.describe();
}

TEST_P(RoundingOpTest, GradientsPassStraightThroughRounding) {
  const auto inputs = [] { return make_inputs(GetParam(), Dtype::Float32); };
  expect_same_bits(run_step<float>(GetParam().run, inputs()).gradients,
                   run_step<float>(GetParam().straight_through, inputs()).gradients, "the gradient of input");
}

TEST_P(OpTest, Float32AgreesWithFloat64) {
  const OpOutcome<float> single = run_case<float>(GetParam());
  const OpOutcome<double> expected = run_case<double>(GetParam());
  expect_close(single.outputs, expected.outputs, GetParam().float32_tolerance);
  expect_close(single.gradients, expected.gradients, GetParam().float32_tolerance);
}

TEST_P(IntegerOpTest, Float32IsExact) {
  const OpOutcome<float> single = run_case<float>(GetParam(), integers, integers);
  const OpOutcome<double> expected = run_case<double>(GetParam(), integers, integers);
  expect_same_bits(in_double(single.outputs), expected.outputs, "output");
  expect_same_bits(in_double(single.gradients), expected.gradients, "the gradient of input");
}

template <class T>
void expect_same_bits_for_any_number_of_threads(const OpCase& op_case) {
  const auto run_with = [&](int threads) {
    const Threads scope(threads);
    return run_case<T>(op_case);
  };
  const OpOutcome<T> expected = run_with(1);
  for (const int threads : {2, 3}) {
    SCOPED_TRACE(threads);
    expect_same_bits(run_with(threads), expected);
  }
}

TEST_P(OpTest, GivesTheSameBitsForAnyNumberOfThreads) {
  expect_same_bits_for_any_number_of_threads<float>(GetParam());
  expect_same_bits_for_any_number_of_threads<double>(GetParam());
}

template <class T>
std::vector<std::vector<T>> sums(std::vector<std::vector<T>> a, const std::vector<std::vector<T>>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t k = 0; k < a[i].size(); ++k) a[i][k] += b[i][k];
  }
  return a;
}

TEST_P(OpTest, GradientsOfTwoStepsAddUpExactly) {
  const auto step = [](std::span<const Tensor> inputs, std::uint64_t seed) {
    loss_of(GetParam().run(inputs), seed).backward();
    return gradients_of<float>(inputs);
  };
  const auto inputs = make_inputs(GetParam(), Dtype::Float32);
  const auto first = step(inputs, 1);
  const auto both = step(inputs, 2);
  expect_same_bits(both, sums(first, step(make_inputs(GetParam(), Dtype::Float32), 2)), "the gradient of input");
}

TEST_P(OpTest, GradientsOfTwoUsesInOneStepAddUp) {
  const auto inputs = make_inputs(GetParam(), Dtype::Float64);
  ops::add(loss_of(GetParam().run(inputs), 1), loss_of(GetParam().run(inputs), 2)).backward();
  const auto gradients_for = [](std::uint64_t seed) {
    const auto fresh = make_inputs(GetParam(), Dtype::Float64);
    loss_of(GetParam().run(fresh), seed).backward();
    return gradients_of<double>(fresh);
  };
  expect_close(gradients_of<double>(inputs), sums(gradients_for(1), gradients_for(2)), 1e-12);
}

/// The sum of an input with weights, for every input that wants a gradient.
Tensor loss_of_inputs(std::span<const Tensor> inputs) {
  std::vector<Tensor> wanting;
  for (const Tensor& input : inputs) {
    if (input.requires_grad_on()) wanting.push_back(input);
  }
  return loss_of(wanting, 9, integers);
}

TEST_P(OpTest, GradientsAddToThoseOfOtherReadersInEitherOrder) {
  for (const bool op_first : {true, false}) {
    SCOPED_TRACE(op_first ? "the op's node comes first" : "the other reader's node comes first");
    const auto inputs = make_inputs(GetParam(), Dtype::Float64);
    const Tensor early = op_first ? loss_of(GetParam().run(inputs)) : loss_of_inputs(inputs);
    const Tensor late = op_first ? loss_of_inputs(inputs) : loss_of(GetParam().run(inputs));
    ops::add(early, late).backward();
    const auto others = make_inputs(GetParam(), Dtype::Float64);
    loss_of_inputs(others).backward();
    expect_close(gradients_of<double>(inputs),
                 sums(run_case<double>(GetParam()).gradients, gradients_of<double>(others)), 1e-12);
  }
}

/// Gives up whatever ops make, to be computed again by backward.
class ReplayEverything : public Policy {
 public:
  std::string_view name() const override { return "replay-everything"; }
  RecipePtr decide(const Value&, const Op&, const BlockInfo&) const override { return memory::replay(); }
};

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

/// What a step looks like from outside: shapes and bytes.
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
    const Footprint meta = footprint_on(Device::Meta, dtype);
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
        GetParam(), i, [](const Tensor& input) { return Tensor::empty(input.shape(), input.dtype(), Device::Meta); });
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

// What an op promises for a temporary that the caller moves in: its memory, and the same bits.

using Inplace = std::function<Tensor(Tensor&& x, const Tensor& other)>;

struct InplaceCase {
  std::string name;
  Shape other;
  Inplace run;
};

std::ostream& operator<<(std::ostream& out, const InplaceCase& inplace) { return out << inplace.name; }

const Shape inplace_shape = {2, 3, 5, 7};

const std::vector<InplaceCase> inplace_cases = {
    {"add", inplace_shape, [](Tensor&& x, const Tensor& other) { return ops::add(other, std::move(x)); }},
    {"relu", inplace_shape, [](Tensor&& x, const Tensor&) { return ops::relu(std::move(x)); }},
    {"add_bias", {3}, [](Tensor&& x, const Tensor& other) { return ops::add_bias(std::move(x), other); }},
    {"couple", inplace_shape, [](Tensor&& x, const Tensor& other) { return ops::couple(other, std::move(x)); }},
    {"couple_on_grid", inplace_shape,
     [](Tensor&& x, const Tensor& other) { return ops::couple(other, std::move(x), 12); }},
    {"round_to_grid", inplace_shape, [](Tensor&& x, const Tensor&) { return ops::round_to_grid(std::move(x), 12); }},
    {"dropout", inplace_shape,
     [](Tensor&& x, const Tensor&) { return ops::dropout(std::move(x), 0.3, std::make_shared<Generator>()); }},
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
  EXPECT_EQ(moved.allocated, 0U);
  expect_same_bits(moved.values, copied.values, "result or gradient");
}

// State: running statistics and random counters.

ops::RunningStatistics fresh_statistics() {
  return {from_vector<double>({2}, {0.5, -1}), from_vector<double>({2}, {2, 4})};
}

/// Four values for each of two channels: means 2.5 and 5, batch variances 1.25 and 5.
Tensor eight_values() { return from_vector<double>({2, 2, 1, 2}, {1, 2, 2, 4, 3, 4, 6, 8}).requires_grad(); }

Tensor normalise(const Tensor& x, const ops::RunningStatistics& running, const ops::BatchNormSpec& spec) {
  return ops::batch_norm(x, from_vector<double>({2}, {1, 1}), from_vector<double>({2}, {0, 0}), running, spec);
}

TEST(BatchNormTest, RunningVarianceIsThatOfTheSampleOrOfTheBatch) {
  for (const bool unbiased : {true, false}) {
    const ops::RunningStatistics running = fresh_statistics();
    ops::BatchNormSpec spec;
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
  ops::BatchNormSpec spec;
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
  std::vector<Spec> infer(std::span<const Spec> inputs) const override { return {inputs[0]}; }
  void forward(Forward&) override { throw DataError("injected"); }
  void backward(Backward&) override {}
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
  const Tensor y = ops::max_pool2d(x, 3, 2, 1);
  for (const double value : y.to_vector<double>()) EXPECT_TRUE(std::isnan(value));
  weighted_sum(y, from_vector<double>({1, 1, 1, 2}, {3, 7})).backward();
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{0, 10, 0}));
  const Tensor lowest = from_vector<double>({1, 1, 1, 1}, {-infinity});
  EXPECT_EQ(ops::max_pool2d(lowest, 3, 2, 1).item(), -infinity);
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
}

TEST(ConcatTest, OfOneTensorIsThatTensor) {
  const Tensor x = eight_values();
  EXPECT_EQ(&ops::concat(std::vector{x}).value(), &x.value());
}

// The checker itself.

/// x * x, whose gradient is off by `error` in the last element.
class Square : public Op {
 public:
  explicit Square(double error) : error_(error) {}
  std::string_view name() const override { return "square"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {.inputs = bits(0)}; }
  std::vector<Spec> infer(std::span<const Spec> inputs) const override { return {inputs[0]}; }
  void forward(Forward& io) override {
    std::vector<double> values = on_host(io.input(0));
    for (double& value : values) value *= value;
    store(values, io.output());
  }
  void backward(Backward& io) override {
    std::vector<double> gradient = on_host(io.grad_output());
    const std::vector<double> x = on_host(io.input(0));
    for (std::size_t i = 0; i < x.size(); ++i) gradient[i] *= 2 * x[i];
    gradient.back() *= 1 + error_;
    store(gradient, io.grad_input(0).view);
  }

 private:
  static std::vector<double> on_host(const View& view) {
    std::vector<double> values(static_cast<std::size_t>(view.shape.count()));
    copy_bytes(values.data(), Device::Cpu, view.data, view.device, values.size() * sizeof(double));
    return values;
  }
  static void store(const std::vector<double>& values, const View& view) {
    copy_bytes(view.data, view.device, values.data(), Device::Cpu, values.size() * sizeof(double));
  }

  double error_;
};

GradcheckResult check_square(double error, const GradcheckOptions& options = {}) {
  const auto square = [=](std::span<const Tensor> in) {
    return apply_single(std::make_unique<Square>(error), {in[0]});
  };
  return gradcheck(square, std::vector{eight_values()}, options);
}

TEST(GradcheckTest, TellsARightGradientFromOneThatIsSlightlyOff) {
  EXPECT_TRUE(check_square(0).passed);
  EXPECT_LT(check_square(0).worst_error, 1e-9);
  const GradcheckResult off = check_square(1e-5);
  EXPECT_FALSE(off.passed);
  EXPECT_EQ(off.input, 0U);
  EXPECT_EQ(off.element, 7);
  EXPECT_NEAR(off.worst_error, 1e-5, 1e-8);
  EXPECT_NEAR(off.gradient, off.difference, std::abs(2e-5 * off.difference));
  EXPECT_NE(off.describe().find("element 7 of input 0"), std::string::npos) << off.describe();
}

TEST(GradcheckTest, DoesNotAcceptNan) {
  EXPECT_FALSE(check_square(nan).passed);
  EXPECT_TRUE(std::isinf(check_square(nan).worst_error));
}

TEST(GradcheckTest, ErrorBelowTheToleranceOfTheCallerIsAccepted) {
  GradcheckOptions options;
  options.tolerance = 1e-3;
  EXPECT_TRUE(check_square(1e-5, options).passed);
}

TEST(GradcheckTest, LeavesTheInputsAlone) {
  const Tensor x = eight_values();
  gradcheck([](std::span<const Tensor> in) { return ops::relu(in[0]); }, std::vector{x});
  EXPECT_EQ(x.to_vector<double>(), eight_values().to_vector<double>());
  EXPECT_FALSE(x.grad());
}

TEST(GradcheckTest, RefusesWhatItCannotCheck) {
  const TensorFunction relu = [](std::span<const Tensor> in) { return ops::relu(in[0]); };
  const TensorFunction detached = [](std::span<const Tensor> in) { return in[0].detach(); };
  const auto generator = std::make_shared<Generator>();
  const TensorFunction random = [=](std::span<const Tensor> in) { return ops::dropout(in[0], 0.5, generator); };
  const Tensor single = zeros({3}).requires_grad();
  const Tensor meta = Tensor::zeros({3}, Dtype::Float64, Device::Meta).requires_grad();
  const Tensor unwanted = zeros({3}, Dtype::Float64);
  EXPECT_THROW(gradcheck(relu, std::vector{unwanted}), ValueError);
  EXPECT_THROW(gradcheck(random, std::vector{eight_values()}), ValueError);
  EXPECT_THROW(gradcheck(relu, std::vector{single}), DtypeError);
  EXPECT_THROW(gradcheck(detached, std::vector{eight_values()}), StateError);
  EXPECT_THROW(gradcheck(relu, std::vector{meta}), DeviceError);
  EXPECT_THROW(gradcheck(relu, std::vector{Tensor()}), ValueError);
}

TEST(WeightedSumTest, RefusesWeightsThatDoNotFit) {
  const Tensor x = eight_values();
  EXPECT_THROW(weighted_sum(x, zeros({8}, Dtype::Float64)), ShapeError);
  EXPECT_THROW(weighted_sum(x, zeros(x.shape())), DtypeError);
  EXPECT_THROW(weighted_sum(x, Tensor::zeros(x.shape(), Dtype::Float64, Device::Meta)), DeviceError);
  EXPECT_THROW(weighted_sum(x, Tensor()), ValueError);
}

}  // namespace
}  // namespace palimpsest::test
