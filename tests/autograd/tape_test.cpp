// The tape as users meet it: handles and how long bytes live, errors of order, gradients of graphs that fan out, memory
// taken over in place.

#include <gtest/gtest.h>

#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/bias.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using TapeUseTest = TapeTest;

using Floats = std::vector<float>;

constexpr std::size_t row_bytes = 4 * sizeof(float);

Tensor row(const Floats& values) { return from_vector<float>({1, 4}, values); }
Tensor row_parameter(const Floats& values) { return Tensor(row(values)).requires_grad(); }

/// Sums a (1, 4) tensor, with weights that make its gradient (1, 2, 3, 4).
Tensor weighted_sum(const Tensor& x) { return ops::linear(x, row({1, 2, 3, 4}), zeros({1})); }

Floats gradient_of(const Tensor& leaf) { return leaf.grad() ? leaf.grad().to_vector<float>() : Floats{}; }

// --- Handles and liveness --------------------------------------------------------------------------------------------

TEST_F(TapeUseTest, CopiesOfATensorAreTheSameTensor) {
  const Tensor a = row({1, 2, 3, 4});
  Tensor b = a;
  b.assign(row({5, 6, 7, 8}));
  EXPECT_EQ(a.to_vector<float>(), (Floats{5, 6, 7, 8}));
  EXPECT_EQ(live_bytes(), baseline_ + row_bytes);
}

TEST_F(TapeUseTest, AValueThatNobodyWillReadGoesWithItsLastHandle) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  Tensor sum = ops::add(x, x);
  const Tensor twice = ops::add(sum, sum);
  Tensor copy = sum;
  const std::size_t before = live_bytes();
  sum = {};
  EXPECT_EQ(live_bytes(), before);
  copy = {};
  EXPECT_EQ(live_bytes(), before - row_bytes);
}

TEST_F(TapeUseTest, AValueThatAGradientReadsStaysUntilThen) {
  const Tensor x = row_parameter({1, -2, 3, -4});
  std::vector<std::size_t> live_in_backward;
  Tensor y = watch(x, [&](Moment moment) {
    if (moment == Moment::Backward) live_in_backward.push_back(live_bytes());
  });
  Tensor loss = weighted_sum(ops::relu(std::move(y)));
  const std::size_t forward_live = live_bytes();
  loss.backward();
  // When backward reaches the watch, what relu and linear kept has gone, as have their gradients but the one that
  // flows.
  ASSERT_EQ(live_in_backward.size(), 1U);
  EXPECT_LE(live_in_backward[0], forward_live);
  EXPECT_EQ(gradient_of(x), (Floats{1, 0, 3, 0}));
  loss = {};
  EXPECT_EQ(live_bytes(), baseline_ + 2 * row_bytes);  // x and its gradient
}

TEST_F(TapeUseTest, LeavesMayBeDroppedBeforeBackward) {
  Bits stored;
  for (const PolicyPtr& policy : {memory::store_all(), memory::shared(), memory::checkpoint()}) {
    const Tensor weight = random_parameter({2, 3, 3, 3}, 1);
    Tensor images = random_tensor({2, 3, 4, 4}, 2);
    const Tensor features = in_block(policy, images, [&](Tensor x) {
      return ops::global_avg_pool(ops::relu(ops::conv2d(ops::relu(std::move(x)), weight)));
    });
    images = {};
    const Tensor scores = ops::linear(features, random_tensor({2, 2}, 3), zeros({2}));
    ops::cross_entropy(scores, from_vector<std::int32_t>({2}, {0, 1})).backward();
    if (stored.empty()) stored = bits_of(weight.grad());
    EXPECT_EQ(bits_of(weight.grad()), stored) << policy->name();
  }
}

TEST_F(TapeUseTest, ATapeDroppedWithoutBackwardReturnsEverything) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  const std::size_t before = live_bytes();
  {
    const Tensor y = ops::relu(ops::relu(x));
    EXPECT_GT(live_bytes(), before);
  }
  EXPECT_EQ(live_bytes(), before);
  EXPECT_EQ(Tape::current(), nullptr);
}

TEST_F(TapeUseTest, TensorsHeldAcrossBackwardStayReadable) {
  const Tensor x = row_parameter({1, -2, 3, -4});
  const Tensor y = ops::relu(x);
  const Tensor loss = weighted_sum(y);
  loss.backward();
  EXPECT_EQ(y.to_vector<float>(), (Floats{1, 0, 3, 0}));
  EXPECT_EQ(loss.item(), 10);
}

// --- detach, NoGrad, requires_grad -----------------------------------------------------------------------------------

TEST_F(TapeUseTest, DetachSharesBytesAndHasNoHistory) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  const Tensor y = ops::add(x, x);
  const std::size_t before = live_bytes();
  const Tensor d = y.detach();
  EXPECT_EQ(live_bytes(), before);
  EXPECT_TRUE(d.value().leaf());
  EXPECT_FALSE(d.requires_grad_on());
  weighted_sum(ops::add(y, d)).backward();
  EXPECT_EQ(gradient_of(x), (Floats{2, 4, 6, 8}));  // nothing flows through d
}

TEST_F(TapeUseTest, DetachMayChangeTheShapeButNotTheOrderInMemory) {
  const Tensor x = random_tensor({2, 3, 4, 5}, 1);
  Tensor halves = x.detach({4, 3, 2, 5});
  const std::vector<float> values = x.to_vector<float>();
  const std::vector<float> same = halves.to_vector<float>();
  EXPECT_EQ(same[3 * 2 * 5], values[2 * 5]) << "the third row of the first image begins the second half";
  halves.assign(random_tensor({4, 3, 2, 5}, 2));
  EXPECT_NE(bits_of(x), bits_of(from_vector<float>({2, 3, 4, 5}, values)));
  EXPECT_THROW(x.detach({4, 3, 2, 4}), ShapeError);
}

TEST_F(TapeUseTest, NoGradRecordsNothing) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  {
    const NoGrad outer;
    { const NoGrad inner; }
    EXPECT_FALSE(grad_enabled());
    const Tensor y = ops::relu(x);
    EXPECT_TRUE(y.value().leaf());
    EXPECT_EQ(Tape::current(), nullptr);
    EXPECT_THROW(y.backward(), StateError);
  }
  EXPECT_TRUE(grad_enabled());
}

TEST_F(TapeUseTest, OnlyFloatingLeavesCanBeAskedForGradients) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  Tensor y = ops::relu(x);
  EXPECT_THROW(y.requires_grad(), StateError);
  EXPECT_THROW(y.assign(x), StateError);
  Tensor labels = from_vector<std::int32_t>({2}, {0, 1});
  EXPECT_THROW(labels.requires_grad(), DtypeError);
  EXPECT_THROW(Tensor().shape(), ValueError);
}

// --- Errors of order -------------------------------------------------------------------------------------------------

TEST_F(TapeUseTest, BackwardTwiceIsRefused) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  const Tensor loss = weighted_sum(x);
  loss.backward();
  EXPECT_NE(message_of<StateError>([&] { loss.backward(); }).find("used up"), std::string::npos);
  EXPECT_EQ(gradient_of(x), (Floats{1, 2, 3, 4}));
}

TEST_F(TapeUseTest, ATensorOfAConsumedStepIsRefusedAndTheNewStepGoesOn) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  const Tensor y = ops::relu(x);
  weighted_sum(y).backward();
  x.zero_grad();
  const Tensor z = ops::relu(x);
  EXPECT_NE(message_of<StateError>([&] { ops::add(z, y); }).find("compute it again"), std::string::npos);
  weighted_sum(ops::add(z, y.detach())).backward();
  EXPECT_EQ(gradient_of(x), (Floats{1, 2, 3, 4}));
}

TEST_F(TapeUseTest, BackwardFromSeveralElementsIsRefusedAndTheStepGoesOn) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  const Tensor y = ops::relu(x);
  EXPECT_THROW(y.backward(), ShapeError);
  EXPECT_THROW(x.backward(), StateError);
  weighted_sum(y).backward();
  EXPECT_EQ(gradient_of(x), (Floats{1, 2, 3, 4}));
}

TEST_F(TapeUseTest, WrongInputsAreRefusedBeforeAnythingHappens) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  const Tensor y = ops::relu(x);
  EXPECT_THROW(ops::add(y, zeros({1, 3})), ShapeError);
  EXPECT_THROW(ops::add(y, Tensor::zeros({1, 4}, Dtype::Float32, meta_device())), DeviceError);
  EXPECT_THROW(ops::add(y, Tensor()), ValueError);
  weighted_sum(y).backward();
  EXPECT_EQ(gradient_of(x), (Floats{1, 2, 3, 4}));
}

/// linear reads its weight in backward: changing it in between is an error, through whichever tensor it was done.
void expect_change_refused(const std::function<void(Tensor&)>& change) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  Tensor weight = row_parameter({1, 1, 1, 1});
  const Tensor loss = ops::linear(x, weight, zeros({1}));
  change(weight);
  const std::string message = message_of<StateError>([&] { loss.backward(); });
  EXPECT_NE(message.find("[linear] input 1 (1, 4) was changed"), std::string::npos) << message;
  EXPECT_FALSE(x.grad());
  EXPECT_FALSE(weight.grad());
}

TEST_F(TapeUseTest, BytesAreWrittenWhereTheChangeIsSeenOnly) {
  static_assert(std::is_same_v<decltype(Tensor().view().data), const void*>);
  const Tensor x = random_parameter({4}, 1);
  const Tensor y = ops::relu(x);
  EXPECT_THROW(y.mutable_view(), StateError);
  EXPECT_NE(x.mutable_view().data, nullptr);
}

TEST_F(TapeUseTest, AParameterChangedBetweenForwardAndBackwardIsRefused) {
  expect_change_refused([](Tensor& weight) { weight.assign(row({2, 2, 2, 2})); });
  expect_change_refused([](Tensor& weight) {
    const float two = 2;
    copy_bytes(weight.mutable_view().data, device(), &two, Device::Cpu, sizeof two);
  });
}

TEST_F(TapeUseTest, AParameterChangedThroughADetachedTensorIsRefused) {
  expect_change_refused([](Tensor& weight) { weight.detach().assign(row({2, 2, 2, 2})); });
}

TEST_F(TapeUseTest, AnActivationChangedThroughADetachedTensorIsRefused) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  const Tensor y = ops::relu(x);
  const Tensor weight = row_parameter({1, 1, 1, 1});
  const Tensor loss = ops::linear(y, weight, zeros({1}));
  y.detach().assign(row({9, 9, 9, 9}));
  EXPECT_THROW(loss.backward(), StateError);
}

TEST_F(TapeUseTest, WhatAReplayReadsMayNotChangeEither) {
  // add_bias needs nothing in backward, but under a replaying policy relu's output is made again from the bias.
  Tensor bias = from_vector<float>({4}, {1, 1, 1, 1}).requires_grad();
  const Tensor x = row_parameter({1, 2, 3, 4});
  const auto loss = [&](const PolicyPtr& policy) {
    return weighted_sum(in_block(policy, x, [&](Tensor y) { return ops::relu(ops::add_bias(std::move(y), bias)); }));
  };
  const Tensor stored = loss(memory::store_all());
  bias.assign(bias.detach());
  stored.backward();
  const Tensor replayed = loss(memory::checkpoint());
  bias.assign(bias.detach());
  EXPECT_THROW(replayed.backward(), StateError);
}

TEST_F(TapeUseTest, WhatASolutionReadsMayNotChangeEither) {
  // The coupling's branch is a parameter: solving for the stream with another one would give wrong bits.
  Tensor branch = row_parameter({1, 1, 1, 1});
  const Tensor x = row_parameter({1, 2, 3, 4});
  Tensor y = in_block(memory::reversible(), x, [&](Tensor stream) {
    stream = ops::relu(std::move(stream));
    return ops::couple(std::move(stream), branch);
  });
  const Tensor loss = weighted_sum(y);
  branch.assign(row({5, 5, 5, 5}));
  EXPECT_THROW(loss.backward(), StateError);
}

// --- Gradients -------------------------------------------------------------------------------------------------------

TEST_F(TapeUseTest, GradientsAddUpOverSteps) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  weighted_sum(x).backward();
  const Tensor first = x.grad();
  weighted_sum(ops::add(x, x)).backward();
  EXPECT_EQ(gradient_of(x), (Floats{3, 6, 9, 12}));
  EXPECT_EQ(first.to_vector<float>(), (Floats{1, 2, 3, 4}));  // what the user took earlier is not written to
  x.zero_grad();
  EXPECT_FALSE(x.grad());
}

/// The gradient of x in weighted_sum(graph(x)), x a leaf and x in the middle of a graph, under every policy.
void expect_gradient(const std::function<Tensor(const Tensor&)>& graph, const Floats& expected) {
  for (const PolicyPtr& policy : {memory::store_all(), memory::shared(), memory::checkpoint(), memory::reversible()}) {
    for (const bool leaf : {true, false}) {
      const Tensor x = row_parameter({1, 2, 3, 4});
      Tensor y = in_block(policy, x, [&](Tensor z) {
        if (!leaf) z = ops::relu(ops::couple(std::move(z), zeros({1, 4})));
        return ops::couple(ops::relu(graph(z)), zeros({1, 4}));
      });
      weighted_sum(std::move(y)).backward();
      EXPECT_EQ(gradient_of(x), expected) << policy->name() << (leaf ? ", leaf" : "");
    }
  }
}

TEST_F(TapeUseTest, OneTensorMayBeBothInputs) {
  expect_gradient([](const Tensor& x) { return ops::add(x, x); }, {2, 4, 6, 8});
  expect_gradient([](const Tensor& x) { return ops::couple(x, x); }, {2, 4, 6, 8});
}

TEST_F(TapeUseTest, PassedThroughGradientsAreCopiedBeforeTheyAreAddedTo) {
  // a and b get the very gradient of their sum; a's grows and b's must not.
  expect_gradient(
      [](const Tensor& x) {
        const Tensor a = ops::relu(x);
        const Tensor b = ops::add(x, x);
        return ops::couple(ops::add(a, b), ops::couple(a, x));
      },
      {5, 10, 15, 20});
}

TEST_F(TapeUseTest, ConcatOfOneTensorWithItself) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  const Tensor weight = from_vector<float>({1, 12}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  const Tensor y = ops::relu(x);
  ops::linear(ops::concat(std::vector<Tensor>{y, y, y}), weight, zeros({1})).backward();
  EXPECT_EQ(gradient_of(x), (Floats{15, 18, 21, 24}));
}

TEST_F(TapeUseTest, TwoLeavesThatShareAGradientDoNotShareWhatIsAddedLater) {
  const Tensor a = row_parameter({1, 2, 3, 4});
  const Tensor b = row_parameter({1, 2, 3, 4});
  weighted_sum(ops::add(a, b)).backward();
  weighted_sum(a).backward();
  EXPECT_EQ(gradient_of(a), (Floats{2, 4, 6, 8}));
  EXPECT_EQ(gradient_of(b), (Floats{1, 2, 3, 4}));
}

TEST_F(TapeUseTest, UnusedOutputsOfSplitGetNoGradient) {
  const Tensor x = row_parameter({1, 2, 3, 4});
  for (const PolicyPtr& policy : {memory::store_all(), memory::checkpoint(), memory::shared()}) {
    x.zero_grad();
    const Tensor kept = in_block(policy, x, [](Tensor y) {
      const std::array<std::int64_t, 3> sizes = {1, 2, 1};
      return ops::relu(ops::split(ops::relu(std::move(y)), sizes)[1]);
    });
    ops::linear(kept, from_vector<float>({1, 2}, {5, 7}), zeros({1})).backward();
    EXPECT_EQ(gradient_of(x), (Floats{0, 5, 7, 0})) << policy->name();
  }
}

// --- Memory taken over in place --------------------------------------------------------------------------------------

TEST_F(TapeUseTest, ReluWorksInPlaceOnlyWhereNobodyReadsItsInput) {
  const Tensor x = row_parameter({1, -2, 3, -4});
  Tensor moved = ops::add(x, x);
  const void* const memory = moved.view().data;
  const Tensor in_place = ops::relu(std::move(moved));
  EXPECT_EQ(in_place.view().data, memory);

  const Tensor held = ops::add(x, x);
  Tensor argument = held;
  const Tensor beside = ops::relu(std::move(argument));
  EXPECT_NE(beside.view().data, held.view().data);
  EXPECT_EQ(held.to_vector<float>(), (Floats{2, -4, 6, -8}));

  Tensor detached_from = ops::add(x, x);
  const Tensor detached = detached_from.detach();
  const Tensor third = ops::relu(std::move(detached_from));
  EXPECT_EQ(detached.to_vector<float>(), (Floats{2, -4, 6, -8}));
  EXPECT_EQ(third.to_vector<float>(), in_place.to_vector<float>());
}

TEST_F(TapeUseTest, WhatAnotherGradientReadsIsNotTakenOver) {
  const Tensor x = row_parameter({1, -2, 3, -4});
  const Tensor weight = row_parameter({1, 1, 1, 1});
  Tensor y = ops::add(x, x);
  const Tensor product = ops::linear(y, weight, zeros({1}));  // its gradient reads y
  const Tensor positive = ops::relu(std::move(y));
  ops::add(product, weighted_sum(positive)).backward();
  EXPECT_EQ(gradient_of(weight), (Floats{2, -4, 6, -8}));
}

TEST_F(TapeUseTest, ALeafIsNeverTakenOver) {
  Tensor data = row({1, -2, 3, -4});
  const Tensor same = data;
  const Tensor x = row_parameter({1, 2, 3, 4});
  const Tensor y = ops::couple(x, std::move(data));
  EXPECT_EQ(same.to_vector<float>(), (Floats{1, -2, 3, -4}));
  EXPECT_EQ(y.to_vector<float>(), (Floats{2, 0, 6, 0}));
}

TEST_F(TapeUseTest, CoupleWorksInTheMemoryOfItsBranch) {
  const Tensor x = row_parameter({1, -2, 3, -4});
  Tensor stream = ops::add(x, x);
  Tensor branch = ops::add(x, x);
  const void* const memory = branch.view().data;
  const Tensor y = ops::couple(std::move(stream), std::move(branch));
  EXPECT_EQ(y.view().data, memory);
  EXPECT_EQ(y.to_vector<float>(), (Floats{4, -8, 12, -16}));
}

}  // namespace
}  // namespace palimpsest::test

/// Outside of the library's namespace, as in a program.
namespace somebody {

TEST(OpOfOnesOwn, IsAppliedByTheLibraryAndNotByStdApply) {
  using palimpsest::Tensor;
  const std::vector<Tensor> inputs{Tensor::zeros({2, 2})};
  auto op = std::make_unique<palimpsest::test::Watch>([](palimpsest::test::Moment) {}, palimpsest::Cost::Cheap);
  EXPECT_EQ(apply(std::move(op), inputs).front().shape(), palimpsest::Shape({2, 2}));
}

}  // namespace somebody
