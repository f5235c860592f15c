// A training step in its steady state: the system is not asked for memory, and what is reserved is what the process
// has.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/tape_support.hpp"
#include "tests/support/user_policy.hpp"

namespace palimpsest::test {
namespace {

using SteadyStateTest = TapeTest;

TEST_F(SteadyStateTest, StepsAfterTheFirstMakeNoSystemCall) {
  nn::DenseNetOptions spec;
  spec.layers = {3, 3};
  spec.growth_rate = 8;
  for (const PolicyPtr& policy : {memory::store_all(), memory::shared(), memory::checkpoint(), user::offload(),
                                  memory::offload({.at_least = 0})}) {
    nn::DenseNet model(spec, nn::Init(1, device()));
    model.set_memory(policy);
    nn::Sgd sgd(model.parameters(), {});
    const Tensor images = random_tensor({8, 3, 16, 16}, 1);
    const Tensor labels = from_vector<std::int32_t>({8}, {0, 1, 2, 3, 4, 5, 6, 7});
    const auto step = [&] {
      sgd.zero_grad();
      ops::cross_entropy(model(images), labels).backward();
      sgd.step();
    };
    test_allocator().release_cached();
    const auto system_calls = [] { return test_allocator().stats().system_calls; };
    const std::uint64_t before = system_calls();
    step();
    EXPECT_GT(system_calls(), before) << policy->name();
    const std::uint64_t after_one = system_calls();
    test_allocator().reset_peak();
    for (int i = 2; i <= 4; ++i) {
      step();
      EXPECT_EQ(system_calls(), after_one) << policy->name() << ", step " << i;
    }
    const std::size_t peak = test_allocator().stats().peak;
    step();
    EXPECT_EQ(test_allocator().stats().peak, peak) << policy->name();
  }
}

/// The most memory that the process has held, in bytes.
std::size_t high_water_mark() {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::size_t kibibytes = 0;
  while (status >> word) {
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes << 10;
  }
  return 0;
}

/// The exit status of a child process if what it reserved is what the system says it holds.
int reserve_and_compare() {
  // The process itself touches memory meanwhile; and its first allocations may fill pages that it had.
  constexpr std::size_t slack = std::size_t{2} << 20;
  Allocator memory(Device::Cpu);
  const std::size_t at_start = high_water_mark();
  std::vector<std::pair<void*, std::size_t>> blocks;
  for (std::size_t i = 1; i <= 12; ++i) {
    const std::size_t bytes = i << 20;
    blocks.emplace_back(memory.allocate(bytes, i % 2 == 0 ? Tag::Workspace : Tag::Activation), bytes);
    const std::size_t reserved = memory.stats().reserved;
    const std::size_t grown = high_water_mark() - at_start;
    if (grown + slack < reserved || grown > reserved + slack) return 1;
  }
  for (std::size_t i = 1; i <= 12; ++i)
    memory.release(blocks[i - 1].first, i << 20, i % 2 == 0 ? Tag::Workspace : Tag::Activation);
  const std::size_t before = high_water_mark();
  memory.allocate(std::size_t{8} << 20, Tag::Activation);  // from what is cached
  return high_water_mark() - before > slack ? 2 : 0;
}

TEST(Allocator, WhatIsReservedIsWhatTheProcessHolds) {
  if (high_water_mark() == 0) GTEST_SKIP() << "the system does not tell";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer holds memory of its own";
#endif
  // In a child: the mark never falls, and this process may have held much before.
  const pid_t child = ::fork();
  if (child == 0) ::_exit(reserve_and_compare());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << "1: grown by another amount than reserved; 2: grown although cached";
}

}  // namespace
}  // namespace palimpsest::test
