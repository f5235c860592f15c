// Results that nobody has read yet: what happens at once and what waits, who can read them and when, and what failures
// leave behind.

#include <gtest/gtest.h>

#include <thread>

#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/fused_layers.hpp"
#include "tests/support/op_support.hpp"
#include "tests/support/policies.hpp"

namespace palimpsest::test {
namespace {

using WaitingTest = TapeTest;

// --- What waits and what does not ------------------------------------------------------------------------------------

bool waits(const Tensor& x) { return unrun_op<Op>(x) != nullptr; }

TEST_F(WaitingTest, ConcatAndNormalisationWaitUntilSomebodyReads) {
  const Layer layer;
  Tensor joined = layer.joined();
  EXPECT_TRUE(waits(joined));
  EXPECT_FALSE(joined.value().present());
  joined.view();
  EXPECT_FALSE(waits(joined));
  EXPECT_TRUE(joined.value().present());
  const Tensor y = layer.norm(std::move(joined));
  EXPECT_TRUE(waits(y));
  const Tensor z = ops::relu(y);
  EXPECT_FALSE(waits(y));
  EXPECT_EQ(recorded("batch_norm_relu"), 1);
  EXPECT_FALSE(waits(layer.norm(layer.joined(), false)));  // without ReLU nobody could take it over
}

TEST_F(WaitingTest, NothingIsRecordedUnderNoGrad) {
  const Layer layer;
  const NoGrad no_grad;
  EXPECT_TRUE(waits(layer.norm()));
  layer.conv(layer.norm());
  EXPECT_EQ(Tape::current(), nullptr);
}

TEST_F(WaitingTest, UnderNoGradTheBitsAreThoseOfARecordedForward) {
  for (const std::int64_t kernel : {1, 3}) {
    const Layer recorded(Dtype::Float32, kernel), unrecorded(Dtype::Float32, kernel);
    const auto forward = [](const Layer& layer) { return layer.conv(layer.norm()).to_vector<float>(); };
    const std::vector<float> expected = forward(recorded);
    const NoGrad no_grad;
    EXPECT_EQ(forward(unrecorded), expected);
    EXPECT_EQ(unrecorded.running.mean.to_vector<float>(), recorded.running.mean.to_vector<float>());
  }
}

TEST_F(WaitingTest, UnderNoGradAResultIsThereForWhoeverReadsIt) {
  const Layer layer;
  std::vector<float> expected;
  {
    const NoGrad no_grad;
    const Tensor y = layer.norm();
    expected = y.to_vector<float>();
    const Tensor again = layer.norm();
    const Tensor gamma = random_of({5}, Dtype::Float32, 3);
    Tensor(layer.gamma).assign(layer.beta);  // after the normalisation, whenever that runs
    EXPECT_EQ(again.to_vector<float>(), expected);
    Tensor(layer.gamma).assign(gamma);
    EXPECT_EQ(ops::relu(layer.norm()).to_vector<float>(), expected);  // positive already
  }
  Tensor y;
  std::thread([&] {
    const NoGrad no_grad;
    y = layer.norm();
  }).join();
  EXPECT_EQ(y.to_vector<float>(), expected) << "made on a thread that is gone";
  y.requires_grad();
  ops::global_avg_pool(y);  // it is a leaf like any other
}

TEST_F(WaitingTest, UnderNoGradWhatDoesNotFitIsTriedAgainWhenItIsRead) {
  const Layer layer;
  Allocator& memory = allocator(device());
  const NoGrad no_grad;
  const std::vector<float> expected = layer.norm().to_vector<float>();
  const Tensor y = layer.norm();
  memory.set_limit(memory.stats().live + 1);
  EXPECT_THROW(y.view(), OutOfMemory);
  memory.set_limit(0);
  EXPECT_EQ(y.to_vector<float>(), expected);
}

TEST_F(WaitingTest, ACouplingCannotWait) {
  class Coupling : public Watch {
   public:
    Coupling() : Watch([](Moment) {}) {}
    int solvable_input() const override { return 0; }
  };
  const Layer layer;
  EXPECT_THROW(apply_when_read(std::make_unique<Coupling>(), {layer.a}), StateError);
}

TEST_F(WaitingTest, OnlyTheOpRecordedLastIsTakenOver) {
  const Layer layer(Dtype::Float64);
  Tensor y = layer.norm();
  const Tensor between = ops::relu(layer.a);
  const Tensor z = layer.conv(std::move(y));
  EXPECT_EQ(recorded(fused_name), 0);
  EXPECT_EQ(recorded("batch_norm_relu"), 1);
  layer.loss_of(z).backward();
  const Layer fused(Dtype::Float64);
  fused.loss_of(fused.conv(fused.norm())).backward();
  expect_close(gradients_of<double>(layer.parameters()), gradients_of<double>(fused.parameters()), 1e-12);
}

TEST_F(WaitingTest, WhatIsBetweenExistsOnlyWhereThePolicyKeepsIt) {
  for (const PolicyPtr& policy : all_policies()) {
    const bool keeps = policy->name() == "store-all" || policy->name() == "keep-every-other";
    for (const bool frozen : {false, true}) {
      Layer layer;
      for (Tensor* parameter : {&layer.gamma, &layer.beta, &layer.weight}) parameter->requires_grad(!frozen);
      const Tensor z = in_block(policy, layer.a, [&](const Tensor&) { return layer.conv(layer.norm()); });
      const auto& nodes = Tape::current()->nodes();
      ASSERT_EQ(nodes.size(), 1U);
      ASSERT_EQ(nodes[0].op->name(), fused_name);
      EXPECT_EQ(nodes[0].outputs[1]->present(), keeps) << policy->name() << (frozen ? ", frozen" : "");
    }
  }
}

TEST_F(WaitingTest, FusedConvolutionsAreEnoughForSharedStorageToActOn) {
  const Layer layer;
  const Tensor z = in_block(memory::shared(), layer.a, [&](const Tensor&) { return layer.conv(layer.norm()); });
  EXPECT_NO_THROW(layer.loss_of(z).backward());
  EXPECT_TRUE(layer.has_gradients());
}

TEST_F(WaitingTest, ADroppedResultLeavesNothingBehind) {
  const Layer layer;
  layer.norm();
  const std::size_t before = live_bytes();
  {
    const Tensor y = layer.norm();
    const Tensor joined = layer.joined();
  }
  EXPECT_EQ(live_bytes(), before);
  EXPECT_EQ(Tape::current(), nullptr);
}

TEST_F(WaitingTest, AResultThatIsLetGoOfAmongOthersIsUndone) {
  const Layer layer;
  Tensor z;
  {
    const Tensor unread = layer.norm();
    z = layer.conv(layer.norm());
  }
  EXPECT_EQ(recorded(fused_name), 1);
  layer.loss_of(z).backward();
  const Layer alone;
  alone.loss_of(alone.conv(alone.norm())).backward();
  EXPECT_TRUE(layer.gradients() == alone.gradients());
}

// --- Running statistics ----------------------------------------------------------------------------------------------

TEST_F(WaitingTest, RunningStatisticsCommitOnceAndAtOnce) {
  const Layer plain;
  const Layer layer;
  const auto expected = [&] {  // a normalisation of the same parts that does not wait
    plain.norm(plain.joined(), false);
    return plain.statistics();
  };
  std::vector<Bits> now = expected();
  {
    const Tensor never_read = layer.norm();
    EXPECT_TRUE(layer.statistics() == now);
  }
  EXPECT_TRUE(layer.statistics() == now);
  now = expected();
  {
    const Tensor y = layer.norm();
    EXPECT_TRUE(layer.statistics() == now);
    y.view();
    y.view();
    EXPECT_TRUE(layer.statistics() == now);
    layer.loss_of(layer.conv(y)).backward();
    EXPECT_TRUE(layer.statistics() == now);
  }
  now = expected();
  const Tensor loss = layer.loss_of(layer.conv(layer.norm()));
  EXPECT_EQ(recorded(fused_name), 1);
  EXPECT_TRUE(layer.statistics() == now);
  loss.backward();
  EXPECT_TRUE(layer.statistics() == now);
}

TEST_F(WaitingTest, RunningStatisticsAreThoseOfTheJoinedTensor) {
  const Layer layer(Dtype::Float64);
  const Layer whole(Dtype::Float64);
  const Tensor y = layer.norm();
  const NoGrad no_grad;
  whole.norm(whole.joined());
  expect_close(layer.running.mean.to_vector<double>(), whole.running.mean.to_vector<double>(), 1e-14);
  expect_close(layer.running.variance.to_vector<double>(), whole.running.variance.to_vector<double>(), 1e-14);
}

TEST_F(WaitingTest, AConvolutionThatRecordsNothingReadsAWaitingResult) {
  const Layer plain;
  plain.norm(plain.joined(), false);
  const Layer layer;
  Tensor y = layer.norm();
  {
    const NoGrad no_grad;
    const Tensor same = y;
    const Tensor expected = layer.conv(same.detach());
    EXPECT_TRUE(bits_of(layer.conv(std::move(y))) == bits_of(expected));
  }
  y = layer.norm();
  plain.norm(plain.joined(), false);
  const NoGrad no_grad;
  layer.conv(std::move(y));  // which was the only one
  EXPECT_TRUE(layer.statistics() == plain.statistics());
}

TEST_F(WaitingTest, ALeafThatHasChangedSinceTheLastStepHasOtherStatistics) {
  const Layer layer;
  const Layer fresh;
  for (const Layer* one : {&layer, &fresh}) {
    if (one == &layer) one->norm();
    Tensor(one->a).assign(random_tensor(one->a.shape(), 99));
  }
  EXPECT_TRUE(bits_of(layer.norm()) == bits_of(fresh.norm()));
}

TEST_F(WaitingTest, AFailedStepTakesTheCommitBack) {
  for (const bool read : {false, true}) {
    for (const bool in_forward : {false, true}) {
      SCOPED_TRACE(::testing::Message() << (read ? "read" : "unread") << (in_forward ? ", forward" : ", backward"));
      const Layer layer;
      const std::vector<Bits> before = layer.state();
      const auto fail = [&](Moment moment) {
        if (moment == Moment::Backward) throw Injected("in backward");
      };
      const auto step = [&] {
        Tensor kept;
        const Tensor z = in_block(memory::shared(), layer.a, [&](Tensor x) {
          x = watch(std::move(x), fail);  // the last to run backward
          const auto norm = [&] { return layer.norm(ops::concat(std::vector<Tensor>{x, layer.b})); };
          kept = norm();
          Tensor fused = layer.conv(norm());
          if (read) kept.view();
          EXPECT_FALSE(layer.state() == before);
          if (in_forward) throw Injected("in forward");
          return fused;
        });
        layer.loss_of(z).backward();
      };
      EXPECT_THROW(step(), Injected);
      EXPECT_TRUE(layer.state() == before);
      EXPECT_FALSE(layer.has_gradients());
    }
  }
}

// --- Held results ----------------------------------------------------------------------------------------------------

enum class Read { AtOnce, AfterTheConvolution, AfterBackward };

struct HeldOutcome {
  Bits value;
  std::vector<Bits> gradients;
  bool operator==(const HeldOutcome&) const = default;
};

/// A step in which the user holds what the convolution reads.
HeldOutcome hold(Read when, const PolicyPtr& policy, std::int64_t kernel) {
  const Layer layer(Dtype::Float32, kernel);
  Tensor y;
  HeldOutcome outcome;
  const Tensor z = in_block(policy, layer.a, [&](const Tensor&) {
    y = layer.norm();
    if (when == Read::AtOnce) outcome.value = bits_of(y);
    return layer.conv(y);
  });
  if (when == Read::AfterTheConvolution) outcome.value = bits_of(y);
  layer.loss_of(z).backward();
  if (when == Read::AfterBackward) outcome.value = bits_of(y);
  EXPECT_TRUE(bits_of(y) == outcome.value);
  outcome.gradients = layer.gradients();
  return outcome;
}

TEST_F(WaitingTest, AHeldResultReadsTheSameAtAnyTime) {
  for (const std::int64_t kernel : {1, 3}) {
    const HeldOutcome expected = hold(Read::AtOnce, memory::store_all(), kernel);
    for (const PolicyPtr& policy : all_policies()) {
      for (const Read when : {Read::AtOnce, Read::AfterTheConvolution, Read::AfterBackward}) {
        EXPECT_TRUE(hold(when, policy, kernel) == expected) << policy->name() << ", " << static_cast<int>(when);
      }
    }
  }
}

TEST_F(WaitingTest, AnUnusedHeldResultIsReadableAfterBackward) {
  const Layer layer;
  const Bits expected = bits_of(layer.norm());
  for (const PolicyPtr& policy : all_policies()) {
    Tensor y;
    Tensor joined;
    const Tensor z = in_block(policy, layer.a, [&](const Tensor& x) {
      y = layer.norm();
      joined = layer.joined();
      return ops::add(x, x);
    });
    layer.loss_of(z).backward();
    EXPECT_TRUE(bits_of(y) == expected) << policy->name();
    const NoGrad no_grad;
    EXPECT_TRUE(bits_of(joined) == bits_of(layer.joined())) << policy->name();
  }
}

TEST_F(WaitingTest, AHeldResultOutlivesItsStepAndItsParts) {
  Tensor y;
  Bits expected;
  {
    const Layer layer;
    expected = bits_of(layer.norm());
    y = layer.norm();
  }
  EXPECT_TRUE(bits_of(y.detach()) == expected);
  EXPECT_TRUE(bits_of(y) == expected);
}

TEST_F(WaitingTest, AHeldResultOfAFailedStepSaysSo) {
  const Layer layer;
  const Tensor early = ops::add(layer.a, layer.a);
  const Tensor y = layer.norm(ops::concat(std::vector<Tensor>{early, layer.b}));
  EXPECT_THROW(in_block(memory::store_all(), early, [](Tensor) -> Tensor { throw Injected("injected"); }), Injected);
  EXPECT_NE(message_of<StateError>([&] { y.view(); }).find("given up"), std::string::npos);
}

TEST_F(WaitingTest, AConvolutionOfAHeldResultHasTheGradientsOfTheFusedOne) {
  for (const std::int64_t kernel : {1, 3}) {
    const Layer fused(Dtype::Float64, kernel);
    fused.loss_of(fused.conv(fused.norm())).backward();
    const Layer layer(Dtype::Float64, kernel);
    const Tensor y = layer.norm();
    const Tensor loss = layer.loss_of(layer.conv(y));
    EXPECT_EQ(recorded(fused_name), 0);
    loss.backward();
    expect_close(gradients_of<double>(layer.parameters()), gradients_of<double>(fused.parameters()), 1e-12);
  }
}

// --- Without a gradient ----------------------------------------------------------------------------------------------

TEST_F(WaitingTest, NoGradGivesTheSameNumbers) {
  for (const std::int64_t kernel : {1, 3}) {
    const Layer recorded_one(Dtype::Float64, kernel);
    const Layer layer(Dtype::Float64, kernel);
    const std::vector<double> expected = recorded_one.conv(recorded_one.norm()).to_vector<double>();
    const NoGrad no_grad;
    expect_close(layer.conv(layer.norm()).to_vector<double>(), expected, 1e-13);
    expect_close(layer.running.variance.to_vector<double>(), recorded_one.running.variance.to_vector<double>(), 1e-14);
  }
}

TEST_F(WaitingTest, EvaluationGivesTheSameBitsRecordedOrNot) {
  const Layer layer;
  const std::vector<Bits> before = layer.state();
  const auto run = [&] {
    const Tensor joined = layer.joined();
    return layer.conv(
        ops::batch_norm(joined, layer.gamma, layer.beta,
                        {layer.running.mean, ops::add(layer.running.variance, ops::relu(layer.running.variance))},
                        {.epsilon = 2, .training = false, .relu = true}));
  };
  const Tensor z = run();
  EXPECT_EQ(recorded("batch_norm_relu"), 1);
  const NoGrad no_grad;
  EXPECT_TRUE(bits_of(z) == bits_of(run()));
  EXPECT_TRUE(layer.state() == before);
}

TEST_F(WaitingTest, GradientsMatchFiniteDifferences) {
  for (const std::int64_t kernel : {1, 3}) {
    const Layer layer(Dtype::Float64, kernel);
    const auto run = [](std::span<const Tensor> in) {
      Tensor x = ops::concat(std::vector<Tensor>{in[0], in[1], ops::add(in[0], in[0])});
      const std::int64_t channels = x.shape().c();
      const ops::RunningStatistics running = {zeros({channels}, Dtype::Float64), zeros({channels}, Dtype::Float64)};
      Tensor y = ops::batch_norm(std::move(x), in[2], in[3], running, {.relu = true});
      return ops::conv2d(std::move(y), in[4], {.padding = ops::Padding::all(in[4].shape()[2] / 2)});
    };
    std::vector<Tensor> inputs = layer.parameters();
    inputs[2] = random_of({8}, Dtype::Float64, 13).requires_grad();
    inputs[3] = random_of({8}, Dtype::Float64, 14).requires_grad();
    inputs[4] = random_of({3, 8, kernel, kernel}, Dtype::Float64, 15).requires_grad();
    const GradcheckResult result = gradcheck(run, inputs, {.tolerance = 1e-6});
    EXPECT_TRUE(result.passed) << result.describe();
  }
}

}  // namespace
}  // namespace palimpsest::test
