// Plain networks under every policy, on meta, where peaks are exact: none needs more than store-all, whatever a layer
// is made of, and nothing is computed twice in vain.

#include <gtest/gtest.h>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include "tests/support/plain_nets.hpp"
#include "tests/support/test_device.hpp"

namespace palimpsest::test {
namespace {

constexpr std::int64_t batch = 8;
constexpr std::int64_t side = 32;

StepCost plain(const PlainNetOptions& spec, const PolicyPtr& policy) {
  return cost_of<PlainNet>(spec, policy, meta_device(), batch, side);
}

/// Those of combinations() that plain networks give something to act on.
std::vector<PolicyPtr> policies() {
  return {memory::shared(), memory::checkpoint(), memory::compose(memory::checkpoint(), memory::shared()),
          memory::offload()};
}

std::vector<PlainNetOptions> nets(int blocks, int layers) {
  std::vector<PlainNetOptions> all;
  for (const Norm norm : {Norm::None, Norm::Before, Norm::After}) {
    for (const double dropout : {0.0, 0.2}) {
      for (const bool residual : {false, true}) {
        for (const bool pool : {false, true}) {
          if (pool && blocks > 4) continue;
          all.push_back({blocks, layers, dropout, norm, residual, pool});
        }
      }
    }
  }
  return all;
}

TEST(PlainNetTest, NoPolicyNeedsMoreThanStoreAll) {
  for (int blocks = 1; blocks <= 8; ++blocks) {
    for (int layers = 2; layers <= 8; ++layers) {
      for (const PlainNetOptions& spec : nets(blocks, layers)) {
        const std::size_t stored = plain(spec, memory::store_all()).peak;
        // Replaying one block saves nothing, and a convolution that is replayed packs its weights meanwhile.
        const auto packed = static_cast<std::size_t>(spec.channels * spec.channels * 3 * 3) * sizeof(float);
        for (const PolicyPtr& policy : policies()) {
          EXPECT_LE(plain(spec, policy).peak, stored + (blocks == 1 ? packed : 0))
              << spec.name() << " under " << policy->name();
        }
      }
    }
  }
}

TEST(PlainNetTest, AConvolutionIsRunAgainOnceAtMost) {
  for (const int blocks : {1, 4}) {
    for (const PlainNetOptions& spec : nets(blocks, 8 / blocks)) {
      EXPECT_EQ(plain(spec, memory::shared()).heavy_replays, 0U) << spec.name();
      for (const PolicyPtr& policy : policies()) {
        EXPECT_LE(plain(spec, policy).heavy_replays, 8U) << spec.name() << " under " << policy->name();
      }
    }
  }
}

TEST(PlainNetTest, CheckpointingOneBlockOfEightLayersTakesWhatStoringTakes) {
  const PlainNetOptions spec{.blocks = 1, .layers = 8};
  const std::size_t activation = static_cast<std::size_t>(batch * spec.channels * side * side) * sizeof(float);
  const std::size_t stored = plain(spec, memory::store_all()).peak;
  EXPECT_GT(stored, 8 * activation);
  EXPECT_LE(plain(spec, memory::checkpoint()).peak, stored);
  const PlainNetOptions in_blocks{.blocks = 4, .layers = 2};
  EXPECT_LE(plain(in_blocks, memory::checkpoint()).peak, stored - 3 * activation);
}

TEST(PlainNetTest, DropoutInADenseNetCostsNoMemoryUnderAnyPolicy) {
  nn::DenseNetOptions spec;
  spec.layers = {6, 6, 6};
  const auto cost = [&](const PolicyPtr& policy) {
    return cost_of<nn::DenseNet>(spec, policy, meta_device(), batch, side);
  };
  for (const PolicyPtr& policy : policies()) {
    spec.dropout = 0;
    const StepCost without = cost(policy);
    spec.dropout = 0.2;
    const StepCost with = cost(policy);
    EXPECT_EQ(with.peak, without.peak) << policy->name();
    EXPECT_EQ(with.heavy_replays, without.heavy_replays) << policy->name();
  }
}

TEST(PlainNetTest, ComposedPoliciesOfAResNetNeedNoMoreThanTheirParts) {
  const nn::ResidualOptions spec = nn::ResNet::cifar(20);
  const auto cost = [&](const PolicyPtr& policy) {
    return cost_of<nn::ResNet>(spec, policy, meta_device(), batch, side);
  };
  const StepCost parts = cost(memory::checkpoint());
  const StepCost composed = cost(memory::compose(memory::checkpoint(), memory::shared()));
  EXPECT_LE(composed.peak, parts.peak);
  EXPECT_EQ(composed.heavy_replays, parts.heavy_replays);
}

}  // namespace
}  // namespace palimpsest::test
