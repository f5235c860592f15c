// Texts that ask for policies or a budget, policies by the names of blocks, and policies composed of two.

#include <palimpsest/memory/request.hpp>

#include <gtest/gtest.h>

#include <palimpsest/memory/policies.hpp>
#include "tests/support/training.hpp"

namespace palimpsest {
namespace {

template <class Ask>
std::string complaint_of(const Ask& ask) {
  try {
    ask();
  } catch (const ValueError& error) {
    return error.what();
  }
  return "";
}

std::string error_of(std::string_view text) {
  return complaint_of([&] { memory::parse(text); });
}

TEST(BudgetTest, UnitsAndShares) {
  const auto bytes = [](const char* text) { return memory::Budget(text).bytes(std::size_t{1000}); };
  EXPECT_EQ(bytes("123"), 123U);
  EXPECT_EQ(bytes("2GiB"), std::size_t{2} << 30);
  EXPECT_EQ(bytes("1.5 MiB"), 1572864U);
  EXPECT_EQ(bytes("1500MB"), 1500000000U);
  EXPECT_EQ(bytes("40%"), 400U);
  for (const char* bad :
       {"", "GiB", "-1", "0", "1e400", "nan", "2Gib", "101%", "0.1", "5 %%", "1e30GB", "0x10", "1,5MB"})
    EXPECT_THROW(memory::Budget{bad}, ValueError) << bad;
  EXPECT_THROW(memory::Budget("40%").bytes(std::size_t{0}), ValueError);
  EXPECT_THROW(memory::Budget("0.01%").bytes(std::size_t{1000}), ValueError);  // would stand for none
}

TEST(RequestTest, ATextAsksForRulesOrForABudget) {
  EXPECT_EQ(memory::parse("shared").budget(), std::nullopt);
  EXPECT_EQ(memory::parse("dense1=shared").budget(), std::nullopt);
  const auto bytes = [](const char* text, Device device) { return memory::parse(text).budget()->bytes(device); };
  EXPECT_EQ(bytes("budget=2GiB", Device::Cuda), std::size_t{2} << 30);  // with a card or without
  EXPECT_EQ(bytes("budget=50%", Device::MetaCpu), memory::device_bytes(Device::Cpu) / 2);
  EXPECT_EQ(memory::parse("budget=50%").budget()->text(), "50%");
  for (const char* bad : {"budget=", "budget=shared", "budget=0", "budget=101%"})
    EXPECT_NE(error_of(bad).find("is no number of bytes"), std::string::npos) << bad;
  EXPECT_NE(error_of("budget=1MiB,*=shared").find("stands alone"), std::string::npos);
}

TEST(RequestTest, WhatIsNotThereIsRefused) {
  const auto refused = [](const char* text, auto part) { return complaint_of([&] { part(memory::parse(text)); }); };
  const auto rules = [](const memory::Request& request) { request.rules(); };
  const auto policy = [](const memory::Request& request) { request.policy(); };
  for (const std::string& message : {refused("budget=60MiB", rules), refused("budget=60MiB", policy)}) {
    for (const char* part : {"'budget=60MiB'", "a budget needs a step to rehearse", "train::choose_memory()"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  EXPECT_NE(refused("dense1=shared,*=checkpoint", policy).find("memory::assign()"), std::string::npos);
  EXPECT_EQ(memory::parse("*=shared").policy(), memory::shared());
}

TEST(RequestTest, WhetherValuesAreMovedIsSaid) {
  for (const char* text : {"offload", "checkpoint+offload", "dense1=shared,*=offload"})
    EXPECT_TRUE(memory::parse(text).offloads()) << text;
  for (const char* text : {"shared", "checkpoint+shared", "budget=1GiB"})
    EXPECT_FALSE(memory::parse(text).offloads()) << text;
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
  const auto rules = memory::parse("dense1=shared,dense*=checkpoint+shared").rules();
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
}

TEST(RulesTest, WhatStandsInTheWrongPlaceIsToldWhereItBelongs) {
  for (const char* const text : {"*=budget=30MiB", "dense1=shared,budget=30MiB"})
    EXPECT_NE(error_of(text).find("a budget is for a whole model and stands alone"), std::string::npos) << text;
}

TEST(RulesTest, AnUnmatchedPatternListsTheBlocks) {
  nn::DenseNet model(nn::DenseNetOptions::cifar(10, 4), nn::Init(0, test::meta_device()));
  const std::vector<PolicyPtr> too_few = {memory::shared()};
  EXPECT_THROW(model.set_memory(too_few), ValueError);
  try {
    memory::assign(memory::parse("*=checkpoint,unit*=shared").rules(), model.block_names());
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
  model.set_memory(memory::assign(memory::parse(rules).rules(), model.block_names()));
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
