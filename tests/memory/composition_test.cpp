// Policies composed of two: what each value's recipe is, the bits and the peak that come of it, and which of the two
// was asked for in vain.

#include <gtest/gtest.h>

#include <palimpsest/memory/request.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include "tests/memory/offload_support.hpp"

namespace palimpsest::test {
namespace {

using memory::compose;
using CompositionTest = OffloadTest;

// --- Recipes ---------------------------------------------------------------------------------------------------------

/// The recipes of what four relus make, two in a block under `first`, then two in one under `second`. The second's
/// output enters a block.
std::vector<std::string> recipes(const PolicyPtr& first, const PolicyPtr& second) {
  const auto two_relus = [](Tensor z) { return ops::relu(ops::relu(std::move(z))); };
  const Tensor x = random_parameter({1, 2, 8, 8}, 1);
  const Tensor y = in_block(second, in_block(first, x, two_relus), two_relus);
  std::vector<std::string> names;
  for (const Node& node : y.handle()->tape->nodes()) {
    const Recipe* const recipe = node.outputs[0]->recipe();
    names.emplace_back(recipe != nullptr ? recipe->name() : "keep");
  }
  score(y).backward();
  return names;
}

std::vector<std::string> recipes(const PolicyPtr& policy) { return recipes(policy, policy); }

using Names = std::vector<std::string>;
const std::string arena = "replay into arena";

TEST_F(CompositionTest, WhatEntersABlockIsKeptUnlessItCanBeMoved) {
  const PolicyPtr offload = memory::offload({.at_least = 0});
  const PolicyPtr checkpoint = memory::checkpoint();
  const PolicyPtr shared = memory::shared();
  EXPECT_EQ(recipes(checkpoint), (Names{"replay", "keep", "replay", "replay"}));
  EXPECT_EQ(recipes(compose(checkpoint, offload)), (Names{"fetch", "fetch", "fetch", "fetch"}));
  EXPECT_EQ(recipes(compose(offload, checkpoint)), (Names{"replay", "fetch", "replay", "replay"}));
  EXPECT_EQ(recipes(compose(checkpoint, shared)), (Names{arena, "keep", arena, arena}));
  EXPECT_EQ(recipes(compose(shared, checkpoint)), (Names{"replay", "keep", "replay", "replay"}));
  EXPECT_EQ(recipes(compose(compose(offload, checkpoint), shared)), (Names{arena, "fetch", arena, arena}));
  EXPECT_EQ(recipes(compose(offload, compose(checkpoint, shared))), (Names{arena, "fetch", arena, arena}));
}

TEST_F(CompositionTest, SmallInputsOfBlocksAreKept) {
  const PolicyPtr composed = compose(memory::checkpoint(), memory::offload());  // from 64 KiB on
  EXPECT_EQ(recipes(composed), recipes(memory::checkpoint()));
}

TEST_F(CompositionTest, WhatThePolicyOfItsBlockKeepsStays) {
  const PolicyPtr composed = compose(memory::offload({.at_least = 0}), memory::checkpoint());
  EXPECT_EQ(recipes(memory::store_all(), composed), (Names{"keep", "keep", "replay", "replay"}));
  EXPECT_EQ(recipes(memory::offload({.at_least = 0}), composed), (Names{"fetch", "fetch", "replay", "replay"}));
}

TEST_F(CompositionTest, AnInputOfTwoBlocksIsMovedOnce) {
  const PolicyPtr composed = compose(memory::offload({.at_least = 0}), memory::checkpoint());
  const auto relu = [](Tensor z) { return ops::relu(std::move(z)); };
  const auto gradient = [&](const PolicyPtr& policy) {
    const Tensor x = random_parameter({1, 2, 8, 8}, 1);
    Tensor y = in_block(policy, x, relu);
    const Tensor first = in_block(policy, y, relu);
    const Recipe* const recipe = y.value().recipe();
    Tensor second = in_block(policy, y, relu);
    EXPECT_EQ(y.value().recipe(), recipe);
    y = {};
    score(ops::add(std::move(second), first)).backward();
    return bits_of(x.grad());
  };
  EXPECT_TRUE(gradient(composed) == gradient(memory::store_all()));
}

// --- Models ----------------------------------------------------------------------------------------------------------

/// Training under the policy gives the bits of store-all, and takes what a run without data says.
Peak expect_exact(const MakeTraining& make, const PolicyPtr& policy) {
  SCOPED_TRACE(policy->name());
  EXPECT_EQ(digest_after(3, make, policy), digest_after(3, make, memory::store_all()));
  const Peak measured = peak_of_second_step(make, policy);
  EXPECT_TRUE((peak_of_second_step(make, policy) == measured));
  EXPECT_TRUE((peak_of_second_step(make, policy, meta_device()) == measured));
  return measured;
}

/// In models as small as these, CUDA's bounded workspace decides what the peak is.
void expect_less(const Peak& peak, const Peak& than) {
  if (device() == Device::Cpu) {
    EXPECT_LT(peak.total, than.total);
  }
}

TEST_F(CompositionTest, ADenseNetsBlockInputsAreOffloaded) {
  const Peak checkpoint = expect_exact(small_densenet(), memory::checkpoint());
  const Peak offload = expect_exact(small_densenet(), memory::offload({.at_least = 0}));
  const Peak outer = expect_exact(small_densenet(), compose(memory::checkpoint(), memory::offload({.at_least = 0})));
  const Peak inner = expect_exact(small_densenet(), compose(memory::offload({.at_least = 0}), memory::checkpoint()));
  expect_less(outer, checkpoint);
  EXPECT_TRUE(outer == offload);  // which takes all there is
  EXPECT_GT(inner.out, 0U);
  EXPECT_LT(inner.out, offload.out);
}

TEST_F(CompositionTest, WithMoreBlocksCheckpointsAreMostOfWhatCanBeOffloaded) {
  // While a unit is replayed, the inputs of two others are on their way back, and the rest are elsewhere.
  const Peak checkpoint = expect_exact(small_revnet(), memory::checkpoint());
  const Peak outer = expect_exact(small_revnet(), compose(memory::checkpoint(), memory::offload({.at_least = 0})));
  const Peak inner = expect_exact(small_revnet(), compose(memory::offload({.at_least = 0}), memory::checkpoint()));
  expect_less(outer, checkpoint);
  expect_less(inner, checkpoint);
}

TEST_F(CompositionTest, CompositionsOfSeveralAreExact) {
  const PolicyPtr offload = memory::offload({.at_least = 0});
  const PolicyPtr large = memory::offload({.at_least = std::size_t{16} << 10});
  const PolicyPtr checkpoint = memory::checkpoint();
  const PolicyPtr reversible = memory::reversible();
  for (const PolicyPtr& policy : {compose(checkpoint, large), compose(compose(offload, checkpoint), memory::shared()),
                                  compose(compose(checkpoint, large), memory::shared())}) {
    expect_exact(small_densenet(), policy);
    expect_exact(small_revnet(), policy);
  }
  const int grid = 12;
  for (const PolicyPtr& policy : {compose(reversible, offload), compose(offload, reversible),
                                  compose(compose(offload, checkpoint), reversible)}) {
    expect_exact(small_revnet(grid), policy);
  }
}

// --- A part asked for in vain ----------------------------------------------------------------------------------------

TEST_F(CompositionTest, APartThatFindsNothingToActOnIsNamed) {
  for (const char* text : {"reversible+shared", "shared+reversible", "checkpoint+reversible+shared"}) {
    Training training = small_densenet()(memory::parse(text).policy(), device());
    const std::vector<std::string> idle{concat_text("'reversible' of '", text, "'")};
    EXPECT_EQ(idle_policies(training.forward()), idle);
    EXPECT_EQ(idle_policies(small_revnet()(memory::parse(text).policy(), device()).forward()),
              std::vector<std::string>());
  }
}

}  // namespace
}  // namespace palimpsest::test
