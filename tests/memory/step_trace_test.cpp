// The record of a step: every byte in it, every operation counted, every owner named.

#include <palimpsest/memory/planner/step_trace.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include <palimpsest/memory/planner/recipe_counts.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest {
namespace {

using memory::StepRecorder;
using memory::StepTrace;

struct Recorded {
  StepTrace record;
  MemoryStats stats;
};

/// The second of two training steps.
Recorded record_step(nn::Classifier& model, std::int64_t batch, const PolicyPtr& policy, Device device) {
  model.set_memory(policy);
  nn::Sgd sgd(model.parameters(), {});
  const Tensor images = Tensor::zeros({batch, 3, 32, 32}, Dtype::Float32, device, Tag::Data);
  const Tensor labels = Tensor::zeros({batch}, Dtype::Int32, device, Tag::Data);
  Recorded recorded;
  for (int step = 0; step < 2; ++step) {
    allocator(device).reset_peak();
    StepRecorder log(device);
    sgd.zero_grad();
    ops::cross_entropy(model(images), labels).backward();
    sgd.step();
    recorded = {log.take(), allocator(device).stats()};
  }
  return recorded;
}

Recorded record_step(nn::Classifier& model, std::int64_t batch, std::string_view policy, Device device) {
  return record_step(model, batch, memory::parse(policy).policy(), device);
}

TEST(StepRecorderTest, EventsAddUpToTheAllocatorsPeak) {
  for (const std::string_view policy : memory::names()) {
    nn::RevNet model(nn::RevNet::cifar(14), nn::Init(0, test::device()));
    const auto [record, stats] = record_step(model, 2, policy, test::device());
    const StepTrace::Peak peak = record.peak();
    EXPECT_EQ(peak.bytes, stats.peak) << policy;
    EXPECT_EQ(peak.by_tag, stats.peak_by_tag) << policy;
    std::size_t owned = record.live_before;
    for (std::size_t i = 0; i <= peak.event; ++i) {
      const StepTrace::Event& event = record.events[i];
      if (event.allocation < 0) owned -= event.bytes;
    }
    for (const int allocation : record.live_after(peak.event)) owned += record.allocation(allocation).bytes;
    EXPECT_EQ(owned, stats.peak) << policy;
  }
}

// The tables count so: three times the forward's multiply-adds, less the first convolution's input gradient.
TEST(StepRecorderTest, OperationsOfAStepAreThoseOfTheModel) {
  nn::DenseNet dense(nn::DenseNetOptions::cifar(100, 12), nn::Init(0, test::meta_device()));
  EXPECT_NEAR(record_step(dense, 64, "store-all", test::meta_device()).record.work().operations, 110.6e9, 1.2e9);
  nn::RevNet rev(nn::RevNet::cifar(110), nn::Init(0, test::meta_device()));
  EXPECT_NEAR(record_step(rev, 100, "store-all", test::meta_device()).record.work().operations, 152e9, 1.6e9);
}

TEST(StepRecorderTest, WhatAPolicyRunsAgainIsCounted) {
  nn::RevNet model(nn::RevNet::cifar(14), nn::Init(0, test::meta_device()));
  const auto store_all = record_step(model, 2, "store-all", test::meta_device()).record;
  EXPECT_EQ(store_all.work(RunKind::Replay).operations, 0);
  EXPECT_EQ(store_all.work(RunKind::Solve).operations, 0);
  const auto checkpoint = record_step(model, 2, "checkpoint", test::meta_device()).record;
  EXPECT_GT(checkpoint.work(RunKind::Replay).operations, 0.5 * checkpoint.work(RunKind::Forward).operations);
  EXPECT_EQ(checkpoint.work(RunKind::Forward).operations, store_all.work(RunKind::Forward).operations);
  const auto reversible = record_step(model, 2, "reversible", test::meta_device()).record;
  EXPECT_GT(reversible.work(RunKind::Solve).bytes, 0);
}

TEST(StepRecorderTest, TheRecordIsTheSameWithAndWithoutData) {
  nn::DenseNet real(nn::DenseNetOptions::cifar(10, 4), nn::Init(0, test::device()));
  nn::DenseNet meta(nn::DenseNetOptions::cifar(10, 4), nn::Init(0, test::meta_device()));
  const auto measured = record_step(real, 2, "shared", test::device()).record;
  const auto forecast = record_step(meta, 2, "shared", test::meta_device()).record;
  ASSERT_EQ(measured.runs.size(), forecast.runs.size());
  for (std::size_t i = 0; i < measured.runs.size(); ++i) {
    EXPECT_EQ(measured.runs[i].name, forecast.runs[i].name);
    EXPECT_EQ(measured.runs[i].work.operations, forecast.runs[i].work.operations);
    EXPECT_EQ(measured.runs[i].work.bytes, forecast.runs[i].work.bytes);
  }
  ASSERT_EQ(measured.events.size(), forecast.events.size());
  for (std::size_t i = 0; i < measured.events.size(); ++i) {
    EXPECT_EQ(measured.events[i].bytes, forecast.events[i].bytes);
    EXPECT_EQ(measured.events[i].run, forecast.events[i].run);
  }
}

TEST(StepRecorderTest, ValuesKnowWhoReadsThemAndHowTheyReturn) {
  nn::RevNet model(nn::RevNet::cifar(14), nn::Init(0, test::meta_device()));
  const StepTrace record = record_step(model, 2, "reversible", test::meta_device()).record;
  std::set<Way> ways;
  int solvable = 0;
  for (const StepTrace::Value& value : record.values) {
    ways.insert(value.way);
    solvable += value.solvable_from >= 0 ? 1 : 0;
    for (const int reader : value.read_by) EXPECT_LT(static_cast<std::size_t>(reader), record.ops.size());
  }
  EXPECT_EQ(ways, (std::set<Way>{Way::Keep, Way::Replay, Way::Invert}));
  EXPECT_GT(solvable, 0);
  ASSERT_EQ(record.backwards.size(), 1U);
  EXPECT_GT(record.backwards[0].runs.begin, 0U);
  EXPECT_LT(record.backwards[0].runs.begin, record.backwards[0].runs.end);
  EXPECT_EQ(record.backwards[0].runs.end, record.runs.size());
  EXPECT_EQ(record.backwards[0].events.end, record.events.size());
}

TEST(StepRecorderTest, EveryBackwardOfAStepIsKnown) {
  nn::RevNet model(nn::RevNet::cifar(14), nn::Init(0, test::meta_device()));
  model.set_memory(memory::checkpoint());
  const auto loss = [&] {
    const Tensor images = Tensor::empty({2, 3, 32, 32}, Dtype::Float32, test::meta_device(), Tag::Data);
    return ops::cross_entropy(model(images), Tensor::empty({2}, Dtype::Int32, test::meta_device(), Tag::Data));
  };
  memory::StepRecorder log(test::meta_device());
  loss().backward();
  const Tensor first = loss();
  const Tensor second = loss();
  second.backward();
  first.backward();
  loss();
  const StepTrace record = log.take();
  ASSERT_EQ(record.backwards.size(), 3U);
  EXPECT_LT(record.backwards[0].runs.end, record.backwards[1].runs.begin);
  EXPECT_EQ(record.backwards[1].runs.end, record.backwards[2].runs.begin) << "one follows the other";
  EXPECT_EQ(record.backwards[1].events.end, record.backwards[2].events.begin);
  EXPECT_LT(record.backwards[2].runs.end, record.runs.size()) << "the last forward has none";
  for (std::size_t i = 0; i < record.runs.size(); ++i) {
    const auto around = [&](const StepTrace::Backward& each) { return each.runs.contains(i); };
    const bool inside = std::any_of(record.backwards.begin(), record.backwards.end(), around);
    EXPECT_EQ(inside, record.runs[i].kind != RunKind::Forward) << "run " << i << ", " << record.runs[i].name;
    const auto at = [&](const StepTrace::Backward& each) { return each.events.contains(record.runs[i].first_event); };
    if (record.runs[i].first_event == record.runs[i].last_event) continue;
    EXPECT_EQ(std::any_of(record.backwards.begin(), record.backwards.end(), at), inside);
  }
}

TEST(StepRecorderTest, AStepThatIsTakenAgainIsRecordedOnce) {
  nn::RevNet model(nn::RevNet::cifar(14), nn::Init(0, test::meta_device()));
  const auto step = [&] {
    const Tensor images = Tensor::empty({2, 3, 32, 32}, Dtype::Float32, test::meta_device(), Tag::Data);
    ops::cross_entropy(model(images), Tensor::empty({2}, Dtype::Int32, test::meta_device(), Tag::Data)).backward();
  };
  step();  // gradients are there now
  const auto recorded = [&](int attempts) {
    memory::StepRecorder log(test::meta_device());
    step();
    for (int i = 1; i < attempts; ++i) {
      log.restart();
      step();
    }
    return log.take();
  };
  const StepTrace once = recorded(1);
  const StepTrace again = recorded(3);
  EXPECT_EQ(again.runs.size(), once.runs.size());
  EXPECT_EQ(again.events.size(), once.events.size());
  EXPECT_EQ(again.ops.size(), once.ops.size());
  EXPECT_EQ(again.values.size(), once.values.size());
  EXPECT_EQ(again.backwards.size(), 1U);
  EXPECT_EQ(again.peak().bytes, once.peak().bytes);
  EXPECT_EQ(again.ops.back().session, 0);
}

/// A replay under a name that a recipe of the library has.
class Misnamed : public Recipe {
 public:
  explicit Misnamed(std::string_view name) : name_(name) {}
  std::string_view name() const override { return name_; }
  void restore(Restoring& restoring) override { restoring.replay(); }

 private:
  std::string_view name_;
};

class GivesMisnamed : public Policy {
 public:
  explicit GivesMisnamed(std::string_view name) : recipe_(std::make_shared<Misnamed>(name)) {}
  std::string_view name() const override { return "misnamed"; }
  RecipePtr decide(const Value&, const Op&, const BlockInfo&) const override { return recipe_; }

 private:
  RecipePtr recipe_;
};

TEST(StepRecorderTest, ARecipeIsNotTakenForAnotherOfTheSameName) {
  nn::DenseNet model(nn::DenseNetOptions::cifar(10, 4), nn::Init(0, test::meta_device()));
  const StepTrace replayed = record_step(model, 2, "checkpoint", test::meta_device()).record;
  for (const char* name : {"keep", "invert", "fetch", "replay", "replay into arena"}) {
    const auto policy = std::make_shared<GivesMisnamed>(name);
    const memory::RecipeCounts counts =
        memory::count_recipes(record_step(model, 2, policy, test::meta_device()).record);
    EXPECT_GT(counts.others, memory::count_recipes(replayed).replayed) << name;  // values that enter a block, too
    EXPECT_EQ(counts.replayed + counts.into_arenas + counts.inverted + counts.offloaded, 0U) << name;
    EXPECT_NE(memory::to_text(counts).find(concat_text(", ", counts.others, " by other recipes")), std::string::npos);
  }
}

}  // namespace
}  // namespace palimpsest
