// All that a training loop may do: computations that are under way at the same time, and errors between the first op of
// a step and the end of its backward. Numbers are those of one after the other, state is that of the steps that ended
// well.

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/memory/planner/plan.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/policies.hpp"
#include "tests/support/training.hpp"

namespace palimpsest::test {
namespace {

class Injected : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using Watcher = std::function<void(Moment)>;

/// Convolution, normalisation and dropout, twice, in blocks; between them `between` is called.
class Net : public nn::Model<Tensor(Tensor)> {
 public:
  Net(std::uint64_t seed, std::int64_t in, std::int64_t out)
      : first_(*this, seed, in, 4), second_(*this, seed + 9, 4, out) {
    add_module("first", first_);
    add_module("second", second_);
  }

  std::function<void()> between = [] {};
  Watcher watcher;  ///< of an op between the blocks

  std::vector<Bits> state() const {
    std::vector<Bits> bits;
    for (const auto& [name, parameter] : parameters()) bits.push_back(bits_of(parameter.grad()));
    for (const auto& [name, buffer] : buffers()) bits.push_back(bits_of(buffer));
    bits.emplace_back(generator_->offset);
    return bits;
  }

 protected:
  Tensor forward(Tensor x) override {
    x = first_(std::move(x));
    between();
    if (watcher) x = watch(std::move(x), watcher);
    return second_(std::move(x));
  }

 private:
  class Layer : public nn::Block<Tensor(Tensor)> {
   public:
    Layer(Net& net, std::uint64_t seed, std::int64_t in, std::int64_t out) : net_(net) {
      weight_ = add_parameter("weight", random_tensor({out, in, 3, 3}, seed, Tag::Parameter));
      gamma_ = add_parameter("gamma", random_tensor({out}, seed + 1, Tag::Parameter));
      beta_ = add_parameter("beta", random_tensor({out}, seed + 2, Tag::Parameter));
      running_ = {add_buffer("mean", random_tensor({out}, seed + 3, Tag::Parameter)),
                  add_buffer("variance", random_tensor({out}, seed + 4, Tag::Parameter))};
    }

   protected:
    Tensor forward(Tensor x) override {
      x = ops::conv2d(std::move(x), weight_, {.padding = ops::Padding::all(1)});
      x = ops::batch_norm(std::move(x), gamma_, beta_, running_, {.training = training(), .relu = true});
      x = ops::relu(std::move(x));
      return training() ? ops::dropout(std::move(x), 0.2, net_.generator_) : x;
    }

   private:
    Net& net_;
    Tensor weight_, gamma_, beta_;
    ops::RunningStatistics running_;
  };

  std::shared_ptr<Generator> generator_ = std::make_shared<Generator>(Generator{3, 40});
  Layer first_, second_;
};

Tensor images(std::uint64_t seed) { return random_tensor({2, 3, 6, 6}, 100 + seed); }
Tensor loss_of(const Tensor& features) {
  return ops::cross_entropy(ops::global_avg_pool(features), from_vector<std::int32_t>({2}, {0, 1}));
}

/// Replays what the step of a net makes, but for every third value.
PolicyPtr plan_of_a_step() {
  Net net(1, 3, 3);
  net.set_memory(memory::store_all_of_model());
  memory::StepRecorder recorder(device());
  loss_of(net(images(1))).backward();
  const memory::StepTrace step = recorder.take();
  memory::Plan plan(step);
  for (std::size_t op = 0; op < step.ops.size(); ++op) {
    if (op % 3 != 2 && !step.ops[op].inputs.empty()) plan.set(static_cast<int>(op), 0, {.way = Way::Replay});
  }
  auto quiet = std::make_shared<memory::PlanFallback>();
  quiet->say = [](const std::string&) {};
  return plan.policy("plan", std::make_shared<memory::OffloadOptions>(), std::move(quiet));
}

std::vector<PolicyPtr> every_policy() {
  std::vector<PolicyPtr> policies = all_policies();
  policies.push_back(memory::compose(memory::checkpoint(), memory::shared()));
  policies.push_back(memory::compose(memory::offload({.at_least = 0}), memory::shared()));
  policies.push_back(plan_of_a_step());
  return policies;
}

class SideBySideTest : public TapeTest {
 protected:
  /// Calls test(policy) for every policy, and once with every byte that comes back compared.
  template <class Test>
  static void under_every_policy(const Test& test) {
    for (const PolicyPtr& policy : every_policy()) {
      SCOPED_TRACE(policy->name());
      test(policy);
      const VerifyScope verified(Verify::All);
      test(policy);
    }
  }
};

/// A net under a policy.
struct Case {
  Case(const PolicyPtr& policy, std::uint64_t seed = 1, std::int64_t in = 3, std::int64_t out = 3)
      : net(seed, in, out) {
    net.set_memory(policy);
  }
  Tensor loss(std::uint64_t seed) { return loss_of(net(images(seed))); }
  std::vector<Bits> after(const std::vector<std::uint64_t>& steps) {
    for (const std::uint64_t seed : steps) loss(seed).backward();
    return net.state();
  }
  Net net;
};

// --- Several at once -------------------------------------------------------------------------------------------------

TEST_F(SideBySideTest, ATeacherAndAStudent) {
  under_every_policy([](const PolicyPtr& policy) {
    const std::vector<Bits> teacher_alone = Case(policy, 1).after({1});
    const std::vector<Bits> student_alone = Case(policy, 50).after({2});
    Case teacher(policy, 1);
    Case student(policy, 50);
    const Tensor a = teacher.loss(1);
    const Tensor b = student.loss(2);
    a.backward();
    EXPECT_TRUE(teacher.net.state() == teacher_alone);
    b.backward();
    EXPECT_TRUE(student.net.state() == student_alone);
  });
}

TEST_F(SideBySideTest, MicroBatchesOfOneModel) {
  under_every_policy([](const PolicyPtr& policy) {
    const std::vector<Bits> expected = Case(policy).after({1, 2, 3});
    Case together(policy);
    const std::vector<Tensor> losses = {together.loss(1), together.loss(2), together.loss(3)};
    for (const Tensor& loss : losses) loss.backward();
    EXPECT_TRUE(together.net.state() == expected);
  });
}

TEST_F(SideBySideTest, AStepWhileALossThatWasSkippedIsHeld) {
  under_every_policy([](const PolicyPtr& policy) {
    Case skipping(policy);
    Tensor loss;
    for (const std::uint64_t seed : {1, 2, 3}) {
      loss = skipping.loss(seed);
      if (seed != 2) loss.backward();
    }
    loss = {};
    Case expected(memory::store_all());
    expected.loss(1).backward();
    expected.loss(2);
    EXPECT_TRUE(skipping.net.state() == expected.after({3}));
  });
}

/// A step of a generator's and a discriminator's. Returns what is left of both.
std::vector<Bits> gan_step(const PolicyPtr& policy, bool at_once) {
  Case generator(policy, 1, 3, 3);
  Case discriminator(policy, 50, 3, 3);
  const auto judge = [&](const Tensor& x) { return loss_of(discriminator.net(x)); };
  Tensor fake = generator.net(images(1));
  if (at_once) {
    judge(fake.detach()).backward();
    judge(fake).backward();
  } else {
    const Tensor bytes = from_vector<float>(fake.shape(), fake.to_vector<float>());
    fake = {};
    judge(bytes).backward();
    Case again(policy, 1, 3, 3);  // its dropout draws the same mask
    judge(again.net(images(1))).backward();
    std::vector<Bits> left = again.net.state();
    for (Bits& bits : discriminator.net.state()) left.push_back(std::move(bits));
    return left;
  }
  std::vector<Bits> left = generator.net.state();
  for (Bits& bits : discriminator.net.state()) left.push_back(std::move(bits));
  return left;
}

TEST_F(SideBySideTest, TheTwoBackwardsOfAnAdversarialStep) {
  const std::vector<Bits> expected = gan_step(memory::store_all(), false);
  under_every_policy([&](const PolicyPtr& policy) { EXPECT_TRUE(gan_step(policy, true) == expected); });
}

TEST_F(SideBySideTest, ABackwardUsesUpOnlyWhatItWentThrough) {
  under_every_policy([](const PolicyPtr& policy) {
    const std::vector<Bits> expected = Case(policy).after({1, 2});
    Case joined(policy);
    Tensor a = joined.loss(1);
    Tensor b = joined.loss(2);
    {
      const Tensor sum = ops::add(a, b);  // makes one computation of the two
      a.backward();
      EXPECT_THROW(sum.backward(), StateError);
      EXPECT_EQ(bits_of(sum).size(), sizeof(float));
    }
    a = {};
    b.backward();
    EXPECT_TRUE(joined.net.state() == expected);
  });
}

TEST_F(SideBySideTest, ComputationsJoinInTheOrderInWhichTheyWereRecorded) {
  const auto gradient = [](bool apart) {
    const Tensor scale = random_parameter({1, 4}, 1);
    std::vector<Tensor> weights;  // made of a parameter alone: each begins a computation
    Tensor x = random_parameter({1, 4}, 2);
    const Tensor start = x;
    for (std::uint64_t i = 0; i < 40; ++i) {
      if (apart) weights.insert(weights.begin(), ops::add(scale, random_parameter({1, 4}, i)));
    }
    for (std::uint64_t i = 0; i < 40; ++i) {
      const Tensor weight = apart ? weights[39 - i] : ops::add(scale, random_parameter({1, 4}, i));
      x = ops::relu(ops::add(std::move(x), weight));
      if (apart) weights[39 - i] = {};
    }
    EXPECT_GE(Tape::current()->nodes().size(), 120U);
    for (std::size_t i = 1; i < Tape::current()->nodes().size(); ++i) {
      EXPECT_LT(Tape::current()->nodes()[i - 1].index, Tape::current()->nodes()[i].index);
    }
    ops::linear(x, random_tensor({1, 4}, 3), zeros({1})).backward();
    return std::pair(bits_of(scale.grad()), bits_of(start.grad()));
  };
  EXPECT_TRUE(gradient(true) == gradient(false));
}

TEST_F(SideBySideTest, WhatIsLeftOfAJoinedComputationGoesWithItsLastTensor) {
  Case joined(memory::shared());
  const std::size_t before = live_bytes();
  const Tensor a = joined.loss(1);
  Tensor b = joined.loss(2);
  ops::add(a, b);
  a.backward();
  EXPECT_GT(live_bytes(), before + 1000);
  std::size_t gradients = 0;
  for (const auto& [name, parameter] : joined.net.parameters()) gradients += parameter.value().bytes();
  b = {};
  EXPECT_EQ(live_bytes(), before + gradients + sizeof(float));
}

TEST_F(SideBySideTest, ALossOfWhatIsUsedUpIsRefusedBeforeAnythingHappens) {
  const Tensor x = random_parameter({1, 4}, 1);
  const Tensor weight = random_parameter({1, 4}, 2);
  const Tensor trunk = ops::relu(ops::add(x, x));
  const Tensor a = ops::linear(trunk, weight, zeros({1}));
  const Tensor b = ops::linear(ops::add(trunk, trunk), weight, zeros({1}));
  a.backward();
  const Bits gradient = bits_of(x.grad());
  for (const auto& use : std::vector<std::function<void()>>{[&] { b.backward(); }, [&] { ops::add(b, b); }}) {
    const std::string message = message_of<StateError>(use);
    EXPECT_NE(message.find("used up"), std::string::npos) << message;
    EXPECT_EQ(message.find("detach"), std::string::npos) << message;
  }
  EXPECT_EQ(bits_of(x.grad()), gradient);
}

TEST_F(SideBySideTest, AnErrorInOneLeavesTheOtherAlone) {
  under_every_policy([](const PolicyPtr& policy) {
    const std::vector<Bits> expected = Case(policy, 50).after({2});
    Case broken(policy, 1);
    Case sound(policy, 50);
    const std::vector<Bits> before = broken.net.state();
    broken.net.watcher = [](Moment moment) {
      if (moment == Moment::Backward) throw Injected("injected");
    };
    const Tensor a = broken.loss(1);
    const Tensor b = sound.loss(2);
    EXPECT_THROW(a.backward(), Injected);
    EXPECT_TRUE(broken.net.state() == before);
    b.backward();
    EXPECT_TRUE(sound.net.state() == expected);
  });
}

TEST_F(SideBySideTest, FourThreadsEvaluateOneModel) {
  Case one(memory::store_all());
  one.net.train(false);
  const auto evaluate = [&one](std::uint64_t seed) {
    const NoGrad no_grad;
    return bits_of(one.net(images(seed)));
  };
  std::vector<Bits> expected;
  for (std::uint64_t seed = 0; seed < 4; ++seed) expected.push_back(evaluate(seed));
  std::vector<Bits> found(4);
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      for (int i = 0; i < 20; ++i) found[seed] = evaluate(seed);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(found == expected);
}

TEST_F(SideBySideTest, AComputationMayBeFinishedOnAnotherThreadButNotJoined) {
  const std::vector<Bits> expected = Case(memory::shared()).after({1});
  Case one(memory::shared());
  const Tensor loss = one.loss(1);
  std::thread([&] {
    Case other(memory::shared(), 50);
    const Tensor own = other.loss(2);
    EXPECT_THROW(ops::add(own, loss), StateError);
    loss.backward();
  }).join();
  EXPECT_TRUE(one.net.state() == expected);
}

// --- State after an error --------------------------------------------------------------------------------------------

TEST_F(SideBySideTest, AnExceptionBetweenTwoBlocksLeavesStateAlone) {
  under_every_policy([](const PolicyPtr& policy) {
    Case one(policy);
    const std::vector<Bits> before = one.net.state();
    one.net.between = [] { throw Injected("user code"); };
    EXPECT_THROW(one.loss(1), Injected);
    EXPECT_TRUE(one.net.state() == before);
    one.net.between = [] {};
    EXPECT_TRUE(one.after({1}) == Case(policy).after({1}));
  });
}

TEST_F(SideBySideTest, AnExceptionThatLeavesAModelUndoesWhateverIsHeld) {
  Case one(memory::shared());
  const std::vector<Bits> before = one.net.state();
  Tensor kept;
  one.net.between = [&] {
    kept = ops::add(random_parameter({1}, 1), random_parameter({1}, 2));
    throw Injected("user code");
  };
  EXPECT_THROW(one.loss(1), Injected);
  EXPECT_TRUE(one.net.state() == before);
}

TEST_F(SideBySideTest, LabelsOfAnotherNumberLeaveStateAlone) {
  under_every_policy([](const PolicyPtr& policy) {
    Case one(policy);
    const std::vector<Bits> before = one.net.state();
    const Tensor three = from_vector<std::int32_t>({3}, {0, 1, 2});
    EXPECT_THROW(ops::cross_entropy(ops::global_avg_pool(one.net(images(1))), three), ShapeError);
    EXPECT_TRUE(one.net.state() == before);
    Tensor scores = ops::global_avg_pool(one.net(images(1)));
    EXPECT_THROW(ops::cross_entropy(scores, three), ShapeError);
    scores = {};  // the step is given up only now
    EXPECT_TRUE(one.net.state() == before);
    scores = ops::global_avg_pool(one.net(images(1)));
    EXPECT_THROW(ops::cross_entropy(scores, three), ShapeError);
    ops::cross_entropy(scores, from_vector<std::int32_t>({2}, {0, 1})).backward();  // it goes on
    EXPECT_TRUE(one.net.state() == Case(policy).after({1}));
  });
}

TEST_F(SideBySideTest, AForwardWithoutABackwardCountsUnlessAnErrorEndedIt) {
  Case one(memory::store_all());
  const std::vector<Bits> before = one.net.state();
  one.net(images(1));
  const std::vector<Bits> after = one.net.state();
  EXPECT_FALSE(after == before);
  const auto fails = [&] {
    const Tensor features = one.net(images(2));
    throw Injected("user code");
  };
  EXPECT_THROW(fails(), Injected);
  EXPECT_TRUE(one.net.state() == after);
}

TEST_F(SideBySideTest, ASkippedStepStaysWhateverFailsAfterIt) {
  const auto watcher = [](Moment moment) {
    if (moment == Moment::Backward) throw Injected("injected");
  };
  under_every_policy([&](const PolicyPtr& policy) {
    Case broken(policy, 50);
    broken.net.watcher = watcher;
    Case skipped(policy, 1);
    const Tensor under_way = broken.loss(2);
    skipped.loss(1);
    const std::vector<Bits> after = skipped.net.state();
    EXPECT_THROW(under_way.backward(), Injected);
    EXPECT_TRUE(skipped.net.state() == after) << "another model";

    Case one(policy);
    one.net.watcher = watcher;
    const Tensor first = one.loss(2);
    one.loss(1);
    EXPECT_THROW(first.backward(), Injected);
    Case alone(policy);
    alone.loss(1);
    const std::size_t mean = one.net.parameters().size();
    EXPECT_TRUE(one.net.state()[mean] == alone.net.state()[mean]) << "another call of the same model";
  });
}

/// A net beside which another is called, on leaves, for nothing.
class WithCallInVain : public nn::Model<Tensor(Tensor)> {
 public:
  explicit WithCallInVain(const PolicyPtr& policy) : wanted(1, 3, 3), unwanted(50, 3, 3) {
    add_module("wanted", wanted);
    add_module("unwanted", unwanted);
    set_memory(policy);
  }
  Net wanted, unwanted;

 protected:
  Tensor forward(Tensor x) override {
    unwanted(x);
    return wanted(std::move(x));
  }
};

TEST_F(SideBySideTest, APartOfACallThatNobodyWantsFailsWithTheCall) {
  under_every_policy([](const PolicyPtr& policy) {
    WithCallInVain net(policy);
    const std::vector<Bits> before = net.unwanted.state();
    const Tensor three = from_vector<std::int32_t>({3}, {0, 1, 2});
    EXPECT_THROW(ops::cross_entropy(ops::global_avg_pool(net(images(1))), three), ShapeError);
    EXPECT_TRUE(net.unwanted.state() == before);
    loss_of(net(images(1))).backward();
    EXPECT_FALSE(net.unwanted.state() == before) << "it was called";
  });
}

/// The program's own exception, outside of every model and past no tensor of the step: nothing of the library sees it.
TEST_F(SideBySideTest, ALossThatOutlivesAnExceptionLeavesItsStepOpen) {
  under_every_policy([](const PolicyPtr& policy) {
    for (const bool goes_on : {true, false}) {
      Case one(policy);
      Tensor loss;
      const auto interrupted = [&] {
        loss = one.loss(1);
        throw Injected("user code");
      };
      EXPECT_THROW(interrupted(), Injected);
      if (goes_on) {
        loss.backward();
        EXPECT_TRUE(one.net.state() == Case(policy).after({1}));
        continue;
      }
      const std::vector<Bits> called = one.net.state();
      loss = {};
      EXPECT_TRUE(one.net.state() == called) << "a skipped step";
    }
  });
}

TEST_F(SideBySideTest, WhatFailsIsUndoneUnderWhatWasBegunLater) {
  under_every_policy([](const PolicyPtr& policy) {
    for (const bool later_ends_first : {false, true}) {
      Case one(policy);
      const std::vector<Bits> before = one.net.state();
      bool broken = true;
      const auto watcher = [&broken](Moment moment) {
        if (broken && moment == Moment::Backward) throw Injected("injected");
      };
      one.net.watcher = watcher;
      const Tensor a = one.loss(1);
      one.net.watcher = nullptr;
      const Tensor b = one.loss(2);
      if (later_ends_first) b.backward();
      EXPECT_THROW(a.backward(), Injected);
      if (!later_ends_first) b.backward();
      // As if only b had been there, but for the random numbers that it has drawn behind a's: they show from the
      // second block on.
      const std::vector<Bits> found = one.net.state();
      const std::vector<Bits> only_b = Case(policy).after({2});
      const std::size_t mean = one.net.parameters().size();
      EXPECT_TRUE(found[mean] == only_b[mean]);
      EXPECT_TRUE(found[mean + 1] == only_b[mean + 1]);
      EXPECT_FALSE(found[mean] == before[mean]);
    }
  });
}

TEST_F(SideBySideTest, AllThatFailIsUndoneInWhateverOrder) {
  for (const bool first_fails_first : {false, true}) {
    Case one(memory::shared());
    const std::vector<Bits> before = one.net.state();
    one.net.watcher = [](Moment moment) {
      if (moment == Moment::Backward) throw Injected("injected");
    };
    const Tensor a = one.loss(1);
    const Tensor b = one.loss(2);
    EXPECT_THROW((first_fails_first ? a : b).backward(), Injected);
    EXPECT_THROW((first_fails_first ? b : a).backward(), Injected);
    EXPECT_TRUE(one.net.state() == before);
  }
}

TEST_F(SideBySideTest, WhatAnOldComputationLeavesToUndoDoesNotGrow) {
  Case one(memory::store_all());
  const Tensor held = one.loss(1);
  std::size_t live = 0;
  for (int step = 0; step < 100; ++step) {
    one.loss(2).backward();
    if (step == 60) live = live_bytes();
  }
  EXPECT_EQ(live_bytes(), live);
}

}  // namespace
}  // namespace palimpsest::test
