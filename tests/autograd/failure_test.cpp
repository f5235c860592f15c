// A failure leaves the weights alone: wherever a step fails, parameters, buffers, random counters, committed gradients
// and the optimiser are what they were, every byte is returned, and the next step goes as if nothing had happened.

#include <gtest/gtest.h>

#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include "tests/support/random_graph.hpp"
#include "tests/support/training.hpp"
#include "tests/support/user_policy.hpp"

namespace palimpsest::test {
namespace {

using StepFailureTest = TapeTest;

class Injected : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

void set_limit(std::size_t bytes) { test_allocator().set_limit(bytes); }

// --- Failures at every op of random graphs ---------------------------------------------------------------------------

enum class Failure { Throw, OutOfMemory };

/// A graph's second step, which fails at the n-th moment at which a watch runs, in forward, in a replay or
/// in backward. Throw: the watch throws. OutOfMemory: whoever allocates next fails.
class FailingGraph {
 public:
  FailingGraph(std::uint64_t seed, PolicyPtr policy) : seed_(seed), policy_(std::move(policy)) {
    RandomGraph graph(seed_);
    graph.set_watch([this](Moment) { ++moments_; });
    first_ = graph.step(policies());
    moments_ = 0;
    second_ = graph.step(policies());
  }

  int moments() const { return moments_; }

  /// True if the step failed at all: after the last op nobody may allocate any more.
  bool fails_at(int moment, Failure failure) const {
    RandomGraph graph(seed_);
    int left = -1;
    graph.set_watch([&](Moment) {
      if (left-- != 0) return;
      if (failure == Failure::Throw) throw Injected("injected");
      set_limit(live_bytes());
    });
    EXPECT_TRUE(graph.step(policies()) == first_);
    const Outcome before = graph.state();
    const std::vector<Bits> parameters = graph.parameters();
    const std::size_t live = live_bytes();
    left = moment;
    const bool failed = fails(graph);
    set_limit(0);
    if (!failed) return false;
    EXPECT_TRUE(graph.state() == before);
    EXPECT_TRUE(graph.parameters() == parameters);
    graph.drop_kept();
    EXPECT_EQ(live_bytes(), live);
    left = -1;
    EXPECT_TRUE(graph.step(policies()) == second_);
    return true;
  }

 private:
  PolicyOfBlock policies() const {
    return [this](int) { return policy_; };
  }

  bool fails(RandomGraph& graph) const {
    Tensor loss;
    try {
      loss = graph.forward(policies());
      loss.backward();
      return false;
    } catch (const Injected&) {
    } catch (const OutOfMemory&) {
    }
    if (loss) {
      EXPECT_THROW(loss.backward(), StateError);
    }
    return true;
  }

  std::uint64_t seed_;
  PolicyPtr policy_;
  int moments_ = 0;
  Outcome first_;
  Outcome second_;
};

/// Acts on everything, so that no policy complains about a graph.
PolicyPtr policy_of(std::uint64_t seed) {
  switch (seed % 6) {
    case 0:
      return memory::store_all();
    case 1:
      return memory::checkpoint();
    case 2:
      return user::keep_every_other();
    default:
      return chaos(seed);
  }
}

class FailureTest : public TapeTest, public ::testing::WithParamInterface<std::uint64_t> {
 protected:
  static void fail_everywhere(Failure failure) {
    const std::uint64_t tried = emulated() ? 1 : 6;
    for (std::uint64_t seed = GetParam() * 6; seed < GetParam() * 6 + tried; ++seed) {
      SCOPED_TRACE(seed);
      const FailingGraph graph(1000 + seed, policy_of(seed));
      int failures = 0;
      for (int moment = 0; moment < graph.moments(); ++moment) failures += graph.fails_at(moment, failure) ? 1 : 0;
      EXPECT_GT(failures, graph.moments() / 2);
    }
  }
};

TEST_P(FailureTest, AnOpThatThrowsLeavesNoTrace) { fail_everywhere(Failure::Throw); }
TEST_P(FailureTest, AnAllocationThatFailsLeavesNoTrace) { fail_everywhere(Failure::OutOfMemory); }

INSTANTIATE_TEST_SUITE_P(Seeds, FailureTest, ::testing::Range<std::uint64_t>(0, 4));

// --- Every limit on a model ------------------------------------------------------------------------------------------

std::size_t gradient_bytes(const nn::Module& model) {
  std::size_t bytes = 0;
  for (const auto& [name, parameter] : model.parameters()) bytes += parameter.value().bytes();
  return bytes;
}

/// Limits between what a step needs at least and what it needs at most. Those that let it begin would be few among
/// evenly spaced ones where workspace outweighs all that a small model keeps, so half of them are below the peak by no
/// more than what is kept.
std::vector<std::size_t> limits_between(std::size_t least, const MemoryStats& at_peak, std::size_t live) {
  const std::size_t all = at_peak.peak - live;
  const std::size_t kept = all - at_peak.peak_by_tag[static_cast<std::size_t>(Tag::Workspace)];
  const std::size_t count = emulated() ? 12 : 40;
  std::vector<std::size_t> limits;
  for (std::size_t i = 0; i < count; ++i) limits.push_back(least + all * i / count);
  for (std::size_t i = 0; i < count; ++i) limits.push_back(least + all - kept * (i + 1) / count);
  return limits;
}

/// Steps under many limits, from what is held between steps to the peak of a step.
void sweep_limits(const std::function<Training()>& make) {
  Training reference = make();
  reference.step();
  test_allocator().reset_peak();
  const std::size_t live = live_bytes();
  reference.step();
  const MemoryStats at_peak = test_allocator().stats();
  reference.step();

  Training training = make();
  training.step();
  training.step();
  training.sgd().zero_grad();
  const std::vector<Bits> before = training.state();
  const std::size_t without_gradients = live_bytes();
  const std::size_t least = without_gradients + gradient_bytes(reference.model());
  for (const std::size_t limit : limits_between(least, at_peak, live)) {
    set_limit(limit);
    EXPECT_THROW(training.step(), OutOfMemory) << "limit " << limit;
    set_limit(0);
    EXPECT_TRUE(training.state() == before);
    EXPECT_EQ(live_bytes(), without_gradients);
  }
  training.step();
  EXPECT_TRUE(training.state() == reference.state());  // the optimiser's state, too, was the same
}

TEST_F(StepFailureTest, EveryLimitLeavesADenseNetAlone) {
  for (const PolicyPtr& policy : {memory::store_all(), memory::shared(), memory::checkpoint(), user::offload(),
                                  memory::offload({.at_least = 0})}) {
    SCOPED_TRACE(policy->name());
    sweep_limits([&] { return densenet(policy); });
  }
}

TEST_F(StepFailureTest, EveryLimitLeavesARevNetAlone) {
  for (const PolicyPtr& policy : {memory::store_all(), memory::shared(), memory::checkpoint(), memory::reversible(),
                                  memory::offload({.at_least = 0})}) {
    SCOPED_TRACE(policy->name());
    sweep_limits([&] { return revnet(policy); });
  }
}

TEST_F(StepFailureTest, AnOptimiserThatFindsNoMemoryLeavesTheWeightsAlone) {
  Training training = densenet(memory::store_all());
  nn::Sgd& sgd = training.sgd();
  ops::cross_entropy(training.model()(random_tensor({2, 3, 8, 8}, 1)), from_vector<std::int32_t>({2}, {1, 2}))
      .backward();
  const std::vector<Bits> before = training.state();
  const std::size_t live = live_bytes();
  for (std::size_t room = 0; room < 4096; room += 512) {
    set_limit(live + room);
    EXPECT_THROW(sgd.step(), OutOfMemory);
    EXPECT_TRUE(training.state() == before);
    EXPECT_EQ(live_bytes(), live);
  }
  set_limit(0);
  sgd.step();
  EXPECT_FALSE(training.state() == before);
}

// --- What the message says -------------------------------------------------------------------------------------------

void expect_parts(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << '"' << part << "\" is not in: " << message;
  }
}

TEST_F(StepFailureTest, OutOfMemorySaysWhatWasAskedAndWhoHoldsIt) {
  Training training = densenet(memory::store_all());
  training.step();
  test_allocator().reset_peak();
  training.step();
  const std::size_t limit = test_allocator().stats().peak - 1;
  set_limit(limit);
  const std::string message = message_of<OutOfMemory>([&] { training.step(); });
  expect_parts(message, {concat_text("out of memory on ", device(), ": "), " MiB for ", " in use (", "parameter ",
                         "activation ", "the limit is " + format_mebibytes(limit), "largest blocks: dense",
                         "memory policy in force: store-all"});
}

// --- Exceptions of users' ops and blocks -----------------------------------------------------------------------------

std::size_t gradient_bytes_live() {
  return test_allocator().stats().live_by_tag[static_cast<std::size_t>(Tag::Gradient)];
}

/// Fails at a moment, beside state that has to be put back.
void expect_clean_failure(const PolicyPtr& policy, Moment when) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  const Tensor weight = random_parameter({1, 2, 4, 4}, 2);
  const auto generator = std::make_shared<Generator>(Generator{3, 40});
  const std::size_t live = live_bytes();
  Tensor kept;
  Tensor loss;
  const auto fail = [&](Moment moment) {
    if (moment == when) throw Injected("injected");
  };
  const auto step = [&] {
    Tensor y = in_block(policy, x, [&](Tensor z) {
      z = ops::dropout(ops::relu(std::move(z)), 0.5, generator);
      kept = ops::add(z, z);
      return ops::relu(watch(std::move(z), fail));
    });
    loss = ops::conv2d(std::move(y), weight);
    loss.backward();
  };
  EXPECT_THROW(step(), Injected);
  EXPECT_EQ(generator->offset, 40U);
  EXPECT_FALSE(x.grad());
  EXPECT_FALSE(weight.grad());
  EXPECT_EQ(gradient_bytes_live(), 0U);  // though the user still holds tensors of the step
  EXPECT_THROW(ops::relu(kept), StateError);
  if (loss) {
    EXPECT_THROW(loss.backward(), StateError);
  }
  EXPECT_EQ(Tape::current(), nullptr);
  kept = {};
  loss = {};
  EXPECT_EQ(live_bytes(), live);
}

TEST_F(StepFailureTest, AnOpMayThrowAtAnyMoment) {
  expect_clean_failure(memory::store_all(), Moment::First);
  expect_clean_failure(memory::store_all(), Moment::Backward);
  expect_clean_failure(memory::shared(), Moment::First);
  expect_clean_failure(memory::shared(), Moment::Backward);
  for (const Moment moment : {Moment::First, Moment::Replay, Moment::Backward}) {
    expect_clean_failure(memory::checkpoint(), moment);
  }
}

// --- Errors of the device --------------------------------------------------------------------------------------------

/// x, which remembers nothing of f but could be solved for, if the device did not fail at it.
class Unsolvable : public Op {
 public:
  std::string_view name() const override { return "unsolvable"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }
  int solvable_input() const override { return 0; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }
  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    copy_bytes(io.output().data, io.device(), x.data, x.device, static_cast<std::size_t>(x.shape.count()) * 4);
  }
  void solve(std::span<const View>, const View&, const View&) const override { throw DeviceError("injected"); }
  void backward(BackwardContext& io) override { io.pass_through(0); }
};

TEST_F(StepFailureTest, ADeviceErrorNamesTheOpAndItsInputsWhereverItRuns) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  const std::string expected = "[watch] on inputs (1, 2, 4, 4): injected";
  for (const Moment when : {Moment::First, Moment::Replay, Moment::Backward}) {
    const std::string message = message_of<DeviceError>([&] {
      Tensor y = in_block(memory::checkpoint(), x, [&](Tensor z) {
        return ops::relu(watch(ops::relu(std::move(z)), [&](Moment moment) {
          if (moment == when) throw DeviceError("injected");
        }));
      });
      ops::conv2d(std::move(y), random_parameter({1, 2, 4, 4}, 2)).backward();
    });
    EXPECT_EQ(message, expected);
    EXPECT_FALSE(x.grad());
  }
  const NoGrad no_grad;
  EXPECT_EQ(message_of<DeviceError>([&] { watch(x, [](Moment) { throw DeviceError("injected"); }); }), expected);
}

TEST_F(StepFailureTest, ADeviceErrorInASolutionNamesTheCouplingAndItsInputs) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  const Tensor y = in_block(memory::reversible(), x, [&](Tensor z) {
    z = ops::relu(std::move(z));
    Tensor branch = ops::conv2d(x, random_parameter({1, 2, 1, 1}, 3));
    std::vector<Tensor> inputs;
    inputs.push_back(std::move(z));
    inputs.push_back(std::move(branch));
    return apply_single(std::make_unique<Unsolvable>(), std::move(inputs));
  });
  const Tensor loss = ops::conv2d(y, random_parameter({1, 2, 4, 4}, 2));
  const std::string message = message_of<DeviceError>([&] { loss.backward(); });
  EXPECT_EQ(message, "[unsolvable] on inputs (1, 2, 4, 4), (1, 1, 4, 4): injected");
}

/// The identity, which cannot undo what it has done.
class Irrevocable : public Op {
 public:
  std::string_view name() const override { return "irrevocable"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }
  void begin(ForwardContext& io) override {
    io.on_failure([] { throw DeviceError("the device is gone"); });
  }
  void forward(ForwardContext&) override {}
  void backward(BackwardContext&) override {}
};

TEST_F(StepFailureTest, WhatCannotBeUndoneKeepsNothingElseFromBeingUndone) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  const auto generator = std::make_shared<Generator>(Generator{3, 40});
  const Tensor y = apply_single(std::make_unique<Irrevocable>(), {ops::dropout(x, 0.5, generator)});
  EXPECT_THROW(watch(ops::dropout(y, 0.5, generator), [](Moment) { throw Injected("injected"); }), Injected);
  EXPECT_EQ(generator->offset, 40U);
  EXPECT_EQ(Tape::current(), nullptr);
}

TEST_F(StepFailureTest, ReadingATensorThatCannotBeRestoredFailsNothing) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  bool broken = false;
  std::vector<Tensor> held;
  std::vector<Bits> bits;
  const auto fail = [&](Moment moment) {
    if (broken && moment == Moment::Replay) throw Injected("injected");
  };
  Tensor y = in_block(memory::shared(), x, [&](Tensor z) {
    for (int i = 0; i < 3; ++i) {
      z = ops::conv2d(watch(std::move(z), fail), random_parameter({2, 2, 1, 1}, 3));
      held.push_back(watch(z, fail));
      bits.push_back(bits_of(held.back()));
    }
    return z;
  });
  broken = true;
  EXPECT_THROW(bits_of(held[0]), Injected);
  EXPECT_FALSE(held[0].value().present());
  EXPECT_EQ(Tape::current()->state(), Tape::State::Recording);
  broken = false;
  for (std::size_t i = 0; i < held.size(); ++i) EXPECT_EQ(bits_of(held[i]), bits[i]);
  ops::conv2d(std::move(y), random_parameter({1, 2, 4, 4}, 2)).backward();
  EXPECT_TRUE(x.grad());
}

TEST_F(StepFailureTest, AnExceptionThatLeavesABlockFailsTheStep) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  const auto generator = std::make_shared<Generator>(Generator{3, 40});
  Tensor before_block = ops::relu(x);
  const auto enter = [&] {
    in_block(memory::store_all(), before_block, [&](Tensor z) -> Tensor {
      z = ops::dropout(std::move(z), 0.5, generator);
      throw Injected("user code");
    });
  };
  EXPECT_THROW(enter(), Injected);
  EXPECT_EQ(generator->offset, 40U);
  EXPECT_THROW(ops::relu(before_block), StateError);
  EXPECT_NO_THROW(bits_of(before_block));  // what the user held when it failed is still there
}

TEST_F(StepFailureTest, AnExceptionCaughtInsideABlockFailsNothing) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  Tensor y = in_block(memory::checkpoint(), x, [&](Tensor z) {
    z = ops::relu(std::move(z));
    EXPECT_THROW(ops::add(z, zeros({1})), ShapeError);
    try {
      throw Injected("user code");
    } catch (const Injected&) {
      z = in_block(memory::shared(), std::move(z), [](Tensor inner) { return ops::relu(std::move(inner)); });
    }
    return z;
  });
  ops::conv2d(std::move(y), random_parameter({1, 2, 4, 4}, 2)).backward();
  EXPECT_TRUE(x.grad());
}

TEST_F(StepFailureTest, AFailedOpCaughtInsideABlockStillFailsTheStep) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  const auto enter = [&] {
    in_block(memory::store_all(), x, [&](Tensor z) {
      z = ops::relu(std::move(z));
      EXPECT_THROW(watch(z, [](Moment) { throw Injected("injected"); }), Injected);
      return ops::relu(std::move(z));  // of a step that is over
    });
  };
  EXPECT_THROW(enter(), StateError);
}

}  // namespace
}  // namespace palimpsest::test
