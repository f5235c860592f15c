// Plain networks under every policy, on meta, where peaks are exact: none needs more than store-all, whatever a layer
// is made of, and nothing is computed twice in vain.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/ops/bias.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/dropout.hpp>
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
    for (int layers = 1; layers <= 8; ++layers) {
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

std::pair<Tensor, Tensor> halves(const Tensor& x) {
  const std::int64_t half = x.shape().c() / 2;
  const std::vector<std::int64_t> channels{half, half};
  std::vector<Tensor> parts = ops::split(x, channels);
  return {std::move(parts[0]), std::move(parts[1])};
}

Tensor joined(Tensor a, Tensor b) { return ops::concat(std::vector<Tensor>{std::move(a), std::move(b)}); }

/// A layer of a ChainNet has these to work with.
struct ChainLayer {
  nn::Conv2d half;  ///< from half of the channels to as many
  nn::BatchNorm2d norm;
  nn::Conv2d whole;
  Tensor bias;
  std::shared_ptr<Generator> generator = std::make_shared<Generator>();

  ChainLayer(nn::Init& init, std::int64_t channels)
      : half(init, channels / 2, channels / 2, {.padding = ops::Padding::all(1)}),
        norm(init, channels / 2, {.relu = true}),
        whole(init, channels, channels, {.padding = ops::Padding::all(1)}),
        bias(init.constant({channels}, 0.01)) {}
};

struct ChainSpec {
  std::string name;
  std::function<Tensor(const ChainLayer&, Tensor)> layer;
  int blocks = 1;
  int layers = 8;  ///< of a block
};

/// Blocks whose layers are a function.
class ChainNet : public nn::Classifier {
 public:
  static constexpr std::int64_t channels = 16;

  ChainNet(const ChainSpec& spec, nn::Init init)
      : stem_(init, 3, channels, {.padding = ops::Padding::all(1)}), head_(init, channels, 10) {
    add_module("stem", stem_);
    for (int i = 0; i < spec.blocks; ++i) {
      blocks_.push_back(std::make_unique<Block>(init, spec));
      add_module("block" + std::to_string(i + 1), *blocks_.back());
    }
    add_module("head", head_);
  }

 protected:
  Tensor forward(Tensor x) override {
    x = stem_(std::move(x));
    for (const auto& block : blocks_) x = (*block)(std::move(x));
    return head_(ops::global_avg_pool(x));
  }

 private:
  class Block : public nn::Block<Tensor(Tensor)> {
   public:
    Block(nn::Init& init, const ChainSpec& spec) : layer_(spec.layer) {
      for (int i = 0; i < spec.layers; ++i) {
        const std::string number = std::to_string(i + 1);
        layers_.push_back(std::make_unique<ChainLayer>(init, channels));
        add_module("half" + number, layers_.back()->half);
        add_module("norm" + number, layers_.back()->norm);
        add_module("whole" + number, layers_.back()->whole);
        add_parameter("bias" + number, layers_.back()->bias);
      }
    }

   protected:
    Tensor forward(Tensor x) override {
      for (const auto& layer : layers_) x = layer_(*layer, std::move(x));
      return x;
    }

   private:
    std::function<Tensor(const ChainLayer&, Tensor)> layer_;
    std::vector<std::unique_ptr<ChainLayer>> layers_;
  };

  nn::Conv2d stem_;
  std::vector<std::unique_ptr<Block>> blocks_;
  nn::Linear head_;
};

/// Layers that make values which no gradient reads, and read them once or never.
std::vector<ChainSpec> chains() {
  return {
      {"a convolved half before the other",  // ShuffleNet v2 (Ma et al. 2018)
       [](const ChainLayer& use, Tensor x) {
         auto [a, b] = halves(x);
         return joined(use.norm(use.half(std::move(b))), std::move(a));
       }},
      {"a half added to the other",  // Res2Net (Gao et al. 2019)
       [](const ChainLayer& use, Tensor x) {
         auto [a, b] = halves(x);
         b = ops::relu(use.half(b));
         a = ops::add(a, b);
         return joined(std::move(a), std::move(b));
       }},
      {"a residual half",
       [](const ChainLayer& use, Tensor x) {
         const auto [a, b] = halves(x);
         return joined(b, ops::add(a, use.norm(use.half(a))));
       }},
      {"hourglass",
       [](const ChainLayer& use, Tensor x) {
         const Tensor low = ops::avg_pool2d(x, 2, 2);
         return ops::add(x, ops::upsample_nearest2d(ops::relu(use.whole(low)), 2));
       }},
      {"half of a join", [](const ChainLayer&, Tensor x) { return halves(joined(x, ops::sigmoid(x))).second; }},
      {"scale", [](const ChainLayer&, Tensor x) { return ops::scale(x, 1.01); }},
      {"dropout", [](const ChainLayer& use, Tensor x) { return ops::dropout(x, 0.1, use.generator); }},
      {"bias", [](const ChainLayer& use, Tensor x) { return ops::add_bias(x, use.bias); }},
      {"pool of upsample",
       [](const ChainLayer&, Tensor x) { return ops::avg_pool2d(ops::upsample_nearest2d(x, 2), 2, 2); }},
      {"silu of scale", [](const ChainLayer&, Tensor x) { return ops::silu(ops::scale(x, 1.01)); }},
  };
}

TEST(PlainNetTest, WhatAPolicyNeedsBeyondStoreAllDoesNotGrowWithDepth) {
  // An arena or two, and a value that one is made from: as much in a net of 8 layers as in one of 32.
  const std::size_t most = 2 * static_cast<std::size_t>(batch * ChainNet::channels * side * side) * sizeof(float);
  for (ChainSpec spec : chains()) {
    for (const int blocks : {1, 4}) {
      for (const int layers : {8, 32}) {
        spec.blocks = blocks;
        spec.layers = layers / blocks;
        const auto peak = [&](const PolicyPtr& policy) {
          return cost_of<ChainNet>(spec, policy, meta_device(), batch, side).peak;
        };
        const std::size_t stored = peak(memory::store_all());
        for (const PolicyPtr& policy : policies()) {
          EXPECT_LE(peak(policy), stored + most)
              << blocks << " blocks of " << spec.layers << ", " << spec.name << ", under " << policy->name();
        }
      }
    }
  }
}

}  // namespace
}  // namespace palimpsest::test
