// Computations that are under way at the same time: the numbers are those of one after the other.

#include <gtest/gtest.h>

#include <thread>

#include "tests/autograd/side_by_side_support.hpp"

namespace palimpsest::test {
namespace {

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

}  // namespace
}  // namespace palimpsest::test
