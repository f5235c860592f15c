// Blocks within blocks: which policy decides about what, and what that saves.

#include <gtest/gtest.h>

#include <functional>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

constexpr int outer_blocks = 4;
constexpr int inner_blocks = 4;
constexpr int layers = 2;  // of an inner block
constexpr int convolutions = outer_blocks * inner_blocks * layers;

using Body = std::function<Tensor(Tensor)>;

/// The bits that a step leaves, the bytes at its peak and the convolutions that were run again.
struct Result {
  Bits gradient;
  std::size_t peak = 0;
  std::size_t replays = 0;
};

class NestedBlocksTest : public TapeTest {
 protected:
  static constexpr std::int64_t side = 16;
  static constexpr std::size_t activation = 4 * side * side * sizeof(float);

  static Tensor layer(Tensor x, int seed) {
    return ops::silu(ops::conv2d(std::move(x), random_parameter({4, 4, 1, 1}, static_cast<std::uint64_t>(seed))));
  }

  static Result step(const Body& forward) {
    const Tensor x = random_parameter({1, 4, side, side}, 1);
    test_allocator().reset_peak();
    const Tensor loss = ops::conv2d(forward(x), random_parameter({1, 4, side, side}, 99));
    loss.backward();
    return {bits_of(x.grad()), test_allocator().stats().peak, loss.handle()->tape->heavy_replays()};
  }

  /// The same layers in blocks of blocks; a null policy for the outer ones: no outer blocks.
  static Result nested(const PolicyPtr& outer, const PolicyPtr& inner) {
    return step([&](Tensor x) {
      int seed = 0;
      const Body inner_body = [&](Tensor y) {
        for (int i = 0; i < layers; ++i) y = layer(std::move(y), ++seed);
        return y;
      };
      const Body outer_body = [&](Tensor y) {
        for (int i = 0; i < inner_blocks; ++i) y = in_block(inner, std::move(y), inner_body);
        return y;
      };
      for (int i = 0; i < outer_blocks; ++i) {
        x = outer != nullptr ? in_block(outer, std::move(x), outer_body) : outer_body(std::move(x));
      }
      return x;
    });
  }
};

TEST_F(NestedBlocksTest, AnOuterCheckpointCoversTheInputsOfInnerOnes) {
  const Result stored = nested(memory::store_all(), memory::store_all());
  const Result flat = nested(nullptr, memory::checkpoint());
  const Result both = nested(memory::checkpoint(), memory::checkpoint());
  EXPECT_TRUE(flat.gradient == stored.gradient);
  EXPECT_TRUE(both.gradient == stored.gradient);
  // Flat, sixteen inputs stay; nested, the inputs of four outer blocks and of the inner ones of one of them.
  EXPECT_LE(both.peak + 7 * activation, flat.peak);
  // The price: the outer block's run, and one of each inner block.
  EXPECT_LE(flat.replays, static_cast<std::size_t>(convolutions));
  EXPECT_LE(both.replays, static_cast<std::size_t>(2 * convolutions));
  EXPECT_GT(both.replays, static_cast<std::size_t>(convolutions));
}

TEST_F(NestedBlocksTest, AnInnerBlockWithoutAPolicyIsPartOfItsOuterOne) {
  const Result inner_without = nested(memory::checkpoint(), nullptr);
  const Result one_block = step([](Tensor x) {
    int seed = 0;
    for (int i = 0; i < outer_blocks; ++i) {
      x = in_block(memory::checkpoint(), std::move(x), [&](Tensor y) {
        for (int j = 0; j < inner_blocks * layers; ++j) y = layer(std::move(y), ++seed);
        return y;
      });
    }
    return x;
  });
  EXPECT_TRUE(inner_without.gradient == one_block.gradient);
  EXPECT_EQ(inner_without.peak, one_block.peak);
  EXPECT_EQ(inner_without.replays, one_block.replays);
}

TEST_F(NestedBlocksTest, AnOuterBlockThatKeepsKeepsTheInputsOfInnerOnes) {
  const Result kept = nested(memory::store_all(), memory::checkpoint());
  const Result flat = nested(nullptr, memory::checkpoint());
  EXPECT_EQ(kept.peak, flat.peak);
  EXPECT_EQ(kept.replays, flat.replays);
}

TEST_F(NestedBlocksTest, ThreeLevelsKeepLessThanTwo) {
  const auto with_top = [](const PolicyPtr& top) {
    return step([&](Tensor x) {
      int seed = 0;
      const Body leaf = [&](Tensor y) {
        y = layer(std::move(y), ++seed);
        return layer(std::move(y), ++seed);
      };
      const Body middle = [&](Tensor y) {
        for (int i = 0; i < 3; ++i) y = in_block(memory::checkpoint(), std::move(y), leaf);
        return y;
      };
      const Body whole = [&](Tensor y) {
        for (int i = 0; i < 3; ++i) y = in_block(memory::checkpoint(), std::move(y), middle);
        return y;
      };
      for (int i = 0; i < 3; ++i) x = top != nullptr ? in_block(top, std::move(x), whole) : whole(std::move(x));
      return x;
    });
  };
  const Result two = with_top(nullptr);
  const Result three = with_top(memory::checkpoint());
  EXPECT_TRUE(two.gradient == three.gradient);
  EXPECT_LT(three.peak, two.peak);
  EXPECT_LE(three.replays, 3U * 54);
}

TEST_F(NestedBlocksTest, EveryPairOfPoliciesGivesTheBitsOfStoreAll) {
  const Result stored = nested(memory::store_all(), memory::store_all());
  const std::vector<PolicyPtr> policies = {memory::store_all(),
                                           memory::shared(),
                                           memory::checkpoint(),
                                           memory::offload({.at_least = 0}),
                                           memory::compose(memory::checkpoint(), memory::shared()),
                                           memory::compose(memory::checkpoint(), memory::offload({.at_least = 0}))};
  for (const PolicyPtr& outer : policies) {
    for (const PolicyPtr& inner : policies) {
      EXPECT_TRUE(nested(outer, inner).gradient == stored.gradient) << outer->name() << " around " << inner->name();
    }
  }
}

}  // namespace
}  // namespace palimpsest::test
