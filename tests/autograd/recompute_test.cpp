// Bytes come back as they were: every policy gives the bits of store-all, state is committed once, and no read is
// stale.

#include <gtest/gtest.h>

#include <map>

#include <palimpsest/memory/recipes.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/policies.hpp"
#include "tests/support/random_graph.hpp"

namespace palimpsest::test {
namespace {

using RecomputeTest = TapeTest;

/// Two steps of a graph, gradients accumulating.
std::vector<Outcome> two_steps(std::uint64_t seed, const PolicyOfBlock& policies) {
  RandomGraph graph(seed);
  std::vector<Outcome> outcomes{graph.step(policies)};
  outcomes.push_back(graph.step(policies));
  return outcomes;
}

std::vector<Outcome> stored(std::uint64_t seed) {
  return two_steps(seed, [](int) { return memory::store_all(); });
}

// --- Random graphs ---------------------------------------------------------------------------------------------------

class RandomGraphTest : public TapeTest, public ::testing::WithParamInterface<std::uint64_t> {
 protected:
  template <class Check>
  static void for_each_seed(const Check& check) {
    constexpr std::uint64_t seeds_per_case = 25;
    const std::uint64_t first = GetParam() * seeds_per_case;
    const std::uint64_t tried = emulated() ? 3 : seeds_per_case;
    for (std::uint64_t seed = first; seed < first + tried; ++seed) check(seed);
  }
};

TEST_P(RandomGraphTest, EveryPolicyGivesTheBitsOfStoreAll) {
  for_each_seed([](std::uint64_t seed) {
    const std::vector<Outcome> expected = stored(seed);
    for (const PolicyPtr& policy : all_policies()) {
      const auto same = [&](int) { return policy; };
      EXPECT_TRUE(two_steps(seed, same) == expected) << "seed " << seed << ", " << policy->name();
    }
  });
}

TEST_P(RandomGraphTest, SoDoesAMixtureOfPolicies) {
  for_each_seed([](std::uint64_t seed) {
    const std::vector<PolicyPtr> policies = all_policies();
    const auto mixture = [&](int block) {
      return policies[philox(seed, static_cast<unsigned>(block))[0] % policies.size()];
    };
    EXPECT_TRUE(two_steps(seed, mixture) == stored(seed)) << "seed " << seed;
  });
}

TEST_P(RandomGraphTest, SoDoAnyDecisionsAtAll) {
  for_each_seed([](std::uint64_t seed) {
    const std::vector<Outcome> expected = stored(seed);
    for (std::uint64_t salt = 0; salt < 4; ++salt) {
      const auto any = [&](int) { return chaos(seed * 4 + salt); };
      EXPECT_TRUE(two_steps(seed, any) == expected) << "seed " << seed << ", salt " << salt;
    }
  });
}

TEST_P(RandomGraphTest, PoliciesMayChangeBetweenSteps) {
  for_each_seed([](std::uint64_t seed) {
    RandomGraph graph(seed);
    const Outcome first = graph.step([&](int) { return chaos(seed); });
    const std::vector<PolicyPtr> policies = all_policies();
    const Outcome second =
        graph.step([&](int block) { return policies[static_cast<std::size_t>(block) % policies.size()]; });
    EXPECT_TRUE((std::vector<Outcome>{first, second} == stored(seed))) << "seed " << seed;
  });
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomGraphTest, ::testing::Range<std::uint64_t>(0, 8));

TEST_F(RecomputeTest, RandomGraphsOnTwoThreads) {
  std::vector<std::vector<Outcome>> expected;
  for (std::uint64_t seed = 0; seed < 5; ++seed) expected.push_back(stored(seed));
  set_thread_count(2);
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    EXPECT_TRUE(two_steps(seed, [&](int) { return chaos(seed); }) == expected[seed]) << "seed " << seed;
  }
}

TEST_F(RecomputeTest, RandomGraphsHaveFusedConvolutionsWithReusedFeatures) {
  int fused = 0;
  int reused = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    RandomGraph graph(seed);
    const Tensor loss = graph.forward([](int) { return memory::store_all(); });
    std::map<const Value*, int> readers;
    for (const Node& node : loss.handle()->tape->nodes()) {
      if (node.op->name() != "batch_norm_relu_conv2d") continue;
      ++fused;
      for (const ValuePtr& input : node.inputs) reused += !input->leaf() && ++readers[input.get()] == 2 ? 1 : 0;
    }
  }
  EXPECT_GT(fused, 100);
  EXPECT_GT(reused, 40);
}

// --- State is committed once -----------------------------------------------------------------------------------------

nn::DenseNetOptions small_densenet() {
  nn::DenseNetOptions spec;
  spec.layers = {2, 3};
  spec.growth_rate = 4;
  spec.stem_channels = 8;
  spec.dropout = 0.2;
  return spec;
}

nn::ResidualOptions small_revnet(std::optional<int> grid) {
  nn::ResidualOptions spec;
  spec.units = {3, 2};
  spec.filters = {8, 16};
  spec.stem_channels = 8;
  spec.grid = grid;
  return spec;
}

struct Trained {
  std::string digest;
  std::uint64_t counters;
  Bits loss;
  bool operator==(const Trained&) const = default;
};

/// Three steps of SGD.
template <class Model, class TensorSpec>
Trained train(const TensorSpec& spec, const PolicyPtr& policy) {
  nn::Init init(5, device());
  Model model(spec, init);
  model.set_memory(policy);
  nn::Sgd sgd(model.parameters(), {.learning_rate = 0.05});
  const Tensor images = random_tensor({4, 3, 8, 8}, 9);
  const Tensor labels = from_vector<std::int32_t>({4}, {0, 3, 7, 9});
  Tensor loss;
  for (int step = 0; step < 3; ++step) {
    sgd.zero_grad();
    loss = ops::cross_entropy(model(images), labels);
    loss.backward();
    sgd.step();
  }
  return {model.state_digest(), init.dropout_generator()->offset, bits_of(loss)};
}

TEST_F(RecomputeTest, WeightsBuffersAndCountersOfADenseNetAreThoseOfStoreAll) {
  const Trained expected = train<nn::DenseNet>(small_densenet(), memory::store_all());
  EXPECT_GT(expected.counters, 0U);
  for (const PolicyPtr& policy : all_policies()) {
    EXPECT_TRUE(train<nn::DenseNet>(small_densenet(), policy) == expected) << policy->name();
  }
}

TEST_F(RecomputeTest, WeightsBuffersAndCountersOfARevNetOnAGridAreThoseOfStoreAll) {
  const Trained expected = train<nn::RevNet>(small_revnet(12), memory::store_all());
  for (const PolicyPtr& policy : all_policies()) {
    EXPECT_TRUE(train<nn::RevNet>(small_revnet(12), policy) == expected) << policy->name();
  }
}

TEST_F(RecomputeTest, UserCodeRunsOnceAndAnOpTwice) {
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  int runs = 0;
  std::vector<Moment> moments;
  Tensor y = in_block(memory::checkpoint(), x, [&](Tensor z) {
    ++runs;
    return ops::relu(watch(ops::relu(std::move(z)), [&](Moment moment) { moments.push_back(moment); }));
  });
  const Tensor one_number = ops::conv2d(std::move(y), random_parameter({1, 2, 4, 4}, 2));
  one_number.backward();
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(moments, (std::vector<Moment>{Moment::First, Moment::Replay, Moment::Backward}));
}

// --- What replaying costs --------------------------------------------------------------------------------------------

template <class Model, class TensorSpec>
std::size_t heavy_replays(const TensorSpec& spec, const PolicyPtr& policy) {
  Model model(spec, nn::Init(5, device()));
  model.set_memory(policy);
  const Tensor images = random_tensor({2, 3, 8, 8}, 9);
  const Tensor loss = ops::cross_entropy(model(images), from_vector<std::int32_t>({2}, {0, 3}));
  loss.backward();
  return loss.handle()->tape->heavy_replays();
}

TEST_F(RecomputeTest, SharedStorageNeverRunsAConvolutionAgain) {
  EXPECT_EQ(heavy_replays<nn::DenseNet>(small_densenet(), memory::shared()), 0U);
  EXPECT_EQ(heavy_replays<nn::RevNet>(small_revnet(12), memory::shared()), 0U);
  EXPECT_EQ(heavy_replays<nn::DenseNet>(small_densenet(), memory::store_all()), 0U);
}

TEST_F(RecomputeTest, CheckpointingRunsEveryConvolutionThatIsReadOnceMore) {
  // Two convolutions in each of five layers. The first block's last result is read by the block's output alone,
  // which is kept; so is the transition's.
  EXPECT_EQ(heavy_replays<nn::DenseNet>(small_densenet(), memory::checkpoint()), 9U);
}

TEST_F(RecomputeTest, ReversingRunsEveryBranchOnceMore) {
  // Two convolutions in each of two branches of five units. In the unit that changes the shape nothing can be solved
  // for, but its branches' insides are made again: all but the last convolution's output, which only the sum reads.
  for (const std::optional<int> grid : {std::optional<int>(12), std::optional<int>()}) {
    const std::size_t replays = heavy_replays<nn::RevNet>(small_revnet(grid), memory::reversible());
    EXPECT_GE(replays, 4U * 4);
    EXPECT_LE(replays, 4U * 5);
  }
}

}  // namespace
}  // namespace palimpsest::test
