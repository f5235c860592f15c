// Policies by the names of blocks, and policies composed of two.

#include <palimpsest/memory/rules.hpp>

#include <gtest/gtest.h>

#include <palimpsest/memory/policies.hpp>
#include "tests/support/training.hpp"

namespace palimpsest {
namespace {

std::string error_of(std::string_view text) {
  try {
    memory::parse_rules(text);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "";
}

TEST(RulesTest, PatternsMatchNamesAndTheirLastParts) {
  EXPECT_TRUE(memory::matches("*", "stage1.unit3"));
  EXPECT_TRUE(memory::matches("unit*", "stage1.unit3"));
  EXPECT_TRUE(memory::matches("unit?", "stage1.unit3"));
  EXPECT_TRUE(memory::matches("stage1.*", "stage1.unit3"));
  EXPECT_TRUE(memory::matches("*1*3", "stage1.unit3"));
  EXPECT_TRUE(memory::matches("dense1", "dense1"));
  EXPECT_FALSE(memory::matches("unit?", "stage1.unit13"));
  EXPECT_FALSE(memory::matches("unit", "stage1.unit3"));
  EXPECT_FALSE(memory::matches("x.unit*", "stage1.unit3"));
  EXPECT_FALSE(memory::matches("", "dense1"));
  EXPECT_FALSE(memory::matches("*x", "dense1"));
  EXPECT_FALSE(memory::matches("dense1?", "dense1"));
}

TEST(RulesTest, TheFirstMatchDecidesAndTheRestKeepsEverything) {
  const auto rules = memory::parse_rules("dense1=shared,dense*=checkpoint+shared");
  const std::vector<std::string> blocks = {"dense1", "transition1", "dense2"};
  const auto policies = memory::assign(rules, blocks);
  EXPECT_EQ(policies[0], memory::shared());
  EXPECT_EQ(policies[1], nullptr);
  EXPECT_EQ(policies[2]->name(), "checkpoint+shared");
}

TEST(RulesTest, WhatIsWrongIsNamed) {
  EXPECT_NE(error_of("none").find("'none'"), std::string::npos);
  EXPECT_NE(error_of("none").find("reversible"), std::string::npos);
  EXPECT_NE(error_of("checkpoint+").find("''"), std::string::npos);
  EXPECT_NE(error_of("dense1=").find("PATTERN=POLICY"), std::string::npos);
  EXPECT_NE(error_of("=shared").find("PATTERN=POLICY"), std::string::npos);
  EXPECT_NE(error_of("dense1=shared,").find("PATTERN=POLICY"), std::string::npos);
  EXPECT_NE(error_of("shared,checkpoint").find("PATTERN=POLICY"), std::string::npos);
  EXPECT_NE(error_of("a=b=shared").find("'b=shared'"), std::string::npos);
  EXPECT_NE(error_of("").find("''"), std::string::npos);
  for (const char* text : {"budget=60MiB", "budget=60MiB,*=shared"}) {
    const std::string message = error_of(text);
    for (const char* part : {text, "a budget needs a step to rehearse", "memory::Planner::within()"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_THROW(memory::parse(text), ValueError);
  }
}

TEST(RulesTest, WhatStandsInTheWrongPlaceIsToldWhereItBelongs) {
  for (const char* const text : {"*=budget=30MiB", "dense1=shared,budget=30MiB"})
    EXPECT_NE(error_of(text).find("a budget is for a whole model and stands alone"), std::string::npos) << text;
  try {
    memory::parse("dense1=shared,*=checkpoint");
    FAIL() << "a policy has no pattern";
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("memory::parse_rules()"), std::string::npos) << error.what();
  }
}

TEST(RulesTest, AnUnmatchedPatternListsTheBlocks) {
  nn::DenseNet model(nn::DenseNetOptions::cifar(10, 4), nn::Init(0, test::meta_device()));
  const std::vector<PolicyPtr> too_few = {memory::shared()};
  EXPECT_THROW(model.set_memory(too_few), ValueError);
  try {
    memory::assign(memory::parse_rules("*=checkpoint,unit*=shared"), model.block_names());
    FAIL() << "a DenseNet has no units";
  } catch (const ValueError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("'unit*'"), std::string::npos) << text;
    for (const std::string& block : model.block_names()) EXPECT_NE(text.find(block), std::string::npos) << text;
  }
}

/// Digest of the weights after three steps, and the peak of the last.
template <class Model, class TensorSpec>
std::pair<std::string, std::size_t> train(const TensorSpec& spec, std::string_view rules) {
  test::Training training = test::training_of<Model>(spec, nn::Init(7, test::device()), test::noise(4, test::device()),
                                                     {.learning_rate = 0.1, .momentum = 0.9});
  nn::Classifier& model = training.model();
  model.set_memory(memory::assign(memory::parse_rules(rules), model.block_names()));
  for (int step = 0; step < 3; ++step) {
    allocator(test::device()).reset_peak();
    training.step();
  }
  return {training.digest(), allocator(test::device()).stats().peak};
}

TEST(RulesTest, MixedAndComposedPoliciesGiveTheSameBits) {
  const auto dense = nn::DenseNetOptions::cifar(16, 4);
  const auto kept = train<nn::DenseNet>(dense, "store-all");
  for (const char* rules : {"checkpoint+shared", "shared+checkpoint", "dense1=shared,*=checkpoint",
                            "transition*=checkpoint+shared,dense2=checkpoint", "store-all+shared"}) {
    const auto mixed = train<nn::DenseNet>(dense, rules);
    EXPECT_EQ(mixed.first, kept.first) << rules;
    EXPECT_LT(mixed.second, kept.second) << rules;
  }
  nn::ResidualOptions rev = nn::RevNet::cifar(14);
  rev.grid = 12;
  const auto rev_kept = train<nn::RevNet>(rev, "store-all");
  for (const char* rules : {"reversible+shared", "stage1*=reversible,*=checkpoint", "unit1=reversible+shared"}) {
    const auto mixed = train<nn::RevNet>(rev, rules);
    EXPECT_EQ(mixed.first, rev_kept.first) << rules;
    EXPECT_LE(mixed.second, rev_kept.second) << rules;
  }
}

}  // namespace
}  // namespace palimpsest
