// Policies of a user (tests/support/user_policy.cpp), and the page that explains them.

#include "tests/support/user_policy.hpp"

#include <gtest/gtest.h>

#include "tests/support/quotes.hpp"
#include "tests/support/training.hpp"

namespace palimpsest::test {
namespace {

using UserPolicyTest = TapeTest;

/// The loss, all gradients and all buffers after one step.
std::vector<Bits> after_a_step(const PolicyPtr& policy) {
  nn::DenseNet model(densenet_spec({2, 3}, 4), nn::Init(1, device()));
  model.set_memory(policy);
  const Tensor images = random_tensor({2, 3, 8, 8}, 2);
  const Tensor loss = ops::cross_entropy(model(images), from_vector<std::int32_t>({2}, {3, 7}));
  loss.backward();
  std::vector<Bits> bits{bits_of(loss)};
  for (const auto& [name, parameter] : model.parameters()) bits.push_back(bits_of(parameter.grad()));
  for (const auto& [name, buffer] : model.buffers()) bits.push_back(bits_of(buffer));
  return bits;
}

TEST_F(UserPolicyTest, AUsersPolicyGivesTheBitsOfStoreAll) {
  const std::vector<Bits> expected = after_a_step(memory::store_all());
  for (const PolicyPtr& policy : {user::offload(), user::keep_every_other()}) {
    EXPECT_TRUE(after_a_step(policy) == expected) << policy->name();
  }
}

/// The highest live bytes of a step, its model included.
std::size_t peak_of_a_step(const PolicyPtr& policy, Device where = device()) {
  Allocator& memory = allocator(where);
  memory.reset_peak();
  const std::size_t before = memory.stats().live;
  nn::DenseNet model(densenet_spec({2, 3}, 4), nn::Init(1, where));
  model.set_memory(policy);
  const Tensor images = Tensor::zeros({2, 3, 8, 8}, Dtype::Float32, where);
  const Tensor labels = Tensor::zeros({2}, Dtype::Int32, where);
  ops::cross_entropy(model(images), labels).backward();
  return memory.stats().peak - before;
}

TEST_F(UserPolicyTest, AUsersPolicyNeedsLessMemory) {
  const std::size_t stored = peak_of_a_step(memory::store_all());
  EXPECT_LT(peak_of_a_step(user::offload()), stored);
  EXPECT_LT(peak_of_a_step(user::keep_every_other()), stored);
}

TEST_F(UserPolicyTest, ARunWithoutDataHasTheSamePeak) {
  for (const PolicyPtr& policy : {user::offload(), user::keep_every_other()}) {
    EXPECT_EQ(peak_of_a_step(policy, meta_device()), peak_of_a_step(policy)) << policy->name();
  }
}

TEST_F(UserPolicyTest, ASaveThatFailsFailsTheStepCleanly) {
  nn::DenseNet model(densenet_spec({2, 3}, 4), nn::Init(1, device()));
  const Tensor images = random_tensor({2, 3, 8, 8}, 2);
  const Tensor labels = from_vector<std::int32_t>({2}, {3, 7});
  const std::string before = model.state_digest();
  const std::size_t live = live_bytes();
  for (std::size_t budget = 0; budget < 40000; budget += 5000) {
    model.set_memory(user::offload(budget));
    const std::string message = message_of<OutOfMemory>([&] { ops::cross_entropy(model(images), labels).backward(); });
    EXPECT_NE(message.find("exceed the budget"), std::string::npos) << message;
    EXPECT_EQ(model.state_digest(), before);
    EXPECT_EQ(live_bytes(), live);
  }
  model.set_memory(user::offload());
  EXPECT_NO_THROW(ops::cross_entropy(model(images), labels).backward());
}

TEST_F(UserPolicyTest, WhatWasSavedIsReturnedWithTheStep) {
  // The second step finds the whole budget again.
  std::size_t enough = 0;
  const auto fits = [&](int steps) {
    const PolicyPtr policy = user::offload(enough);
    try {
      for (int i = 0; i < steps; ++i) after_a_step(policy);
    } catch (const OutOfMemory&) {
      return false;
    }
    return true;
  };
  while (!fits(1)) enough += 4096;
  EXPECT_GT(enough, 0U);
  EXPECT_TRUE(fits(3));
}

TEST_F(UserPolicyTest, AUsersPolicyThatFindsNothingToActOnSaysSo) {
  const Tensor x = random_parameter({1, 1, 1, 1}, 1);
  const Tensor y = in_block(user::offload(), x, [](Tensor z) { return watch(std::move(z), [](Moment) {}); });
  EXPECT_EQ(idle_policies(y), std::vector<std::string>{"'offload'"});
  EXPECT_NO_THROW(y.backward());
}

// --- The page --------------------------------------------------------------------------------------------------------

TEST(Documentation, AddingAPolicyQuotesTheSources) {
  expect_quoted("docs/adding-a-policy.md",
                {"tests/support/user_policy.cpp", "tests/support/user_policy.hpp", "tests/memory/user_policy_test.cpp"},
                5);
}

}  // namespace
}  // namespace palimpsest::test
