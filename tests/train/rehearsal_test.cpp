// Rehearsals of a run on meta, and what a plan consists of.

#include <gtest/gtest.h>

#include <palimpsest/core/error.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include "tests/train/small_tasks.hpp"

namespace palimpsest::train {
namespace {

using test::small_densenet;

TEST(Rehearsal, PredictsByTagAndTouchesNoOtherMemory) {
  const std::size_t before = allocator(Device::Cpu).stats().live;
  Options options;
  const Forecast forecast = rehearse(small_densenet(10), options);
  std::size_t sum = 0;
  for (const std::size_t bytes : forecast.peak.by_tag) sum += bytes;
  EXPECT_EQ(sum, forecast.peak.total);
  EXPECT_GT(forecast.peak.total, 0U);
  EXPECT_GT(forecast.parameters, 0);
  EXPECT_EQ(allocator(Device::Cpu).stats().live, before);
  EXPECT_EQ(allocator(Device::MetaCpu).stats().live, 0U);
}

TEST(Rehearsal, StandsForTheDevice) {
  Options options;
  const Forecast cpu = rehearse(small_densenet(10), options);
  const Forecast cuda = rehearse(small_densenet(10), {.device = Device::Cuda});
  const auto bytes = [](const Forecast& forecast, Tag tag) {
    return forecast.peak.by_tag[static_cast<std::size_t>(tag)];
  };
  EXPECT_EQ(bytes(cuda, Tag::Parameter), bytes(cpu, Tag::Parameter));
  constexpr std::size_t image = 3 * 32 * 32;
  EXPECT_EQ(bytes(cpu, Tag::Data), 4 * 64 * (4 * image + 4));  // the batch, and the loader's three
  EXPECT_EQ(bytes(cuda, Tag::Data), 64 * (4 * image + 4) + 2 * 64 * (image + 16) + 3 * 1024);
}

TEST(Rehearsal, RefusesWhatCannotBe) {
  Options options;
  EXPECT_THROW(rehearse(small_densenet(11), options), ValueError);
  options.memory = "reversible";
  EXPECT_THROW(rehearse(small_densenet(10), options), IdlePolicyError) << "there is nothing to reverse in a DenseNet";
  EXPECT_EQ(allocator(Device::MetaCpu).stats().live, 0U);
}

TEST(Rehearsal, TheBytesThatDecideAreThoseOfTheForecast) {
  Options options;
  for (const bool evaluate : {true, false}) {
    Task task = small_densenet(10);
    if (!evaluate) task.evaluation = {};
    for (const std::int64_t batch : {4, 64}) {
      options.batch_size = batch;
      const Forecast forecast = rehearse(task, options);
      EXPECT_EQ(rehearse_bytes(task, options, {memory::parse("store-all").rules()}),
                std::max(forecast.peak.total, forecast.evaluation.total));
    }
  }
}

memory::RecipeCounts recipes_under(const char* policy) {
  return memory::count_recipes(rehearse_step(small_densenet(10), {}, {memory::parse(policy).rules()}));
}

TEST(RecipeCounts, CountsWhatReachesBackward) {
  const memory::RecipeCounts all = recipes_under("store-all");
  EXPECT_GT(all.kept, 0U);
  EXPECT_EQ(all.replayed + all.into_arenas + all.inverted + all.offloaded, 0U);
  EXPECT_EQ(memory::to_text(all),
            concat_text(all.kept, " kept, 0 replayed (0 of them nested), 0 into arenas, ", "0 inverted, 0 offloaded"));
  const memory::RecipeCounts shared = recipes_under("shared");
  EXPECT_GT(shared.into_arenas, 0U);
  EXPECT_EQ(shared.offloaded, 0U);
  const memory::RecipeCounts checkpoint = recipes_under("checkpoint");
  EXPECT_GT(checkpoint.replayed, 0U);
  EXPECT_EQ(checkpoint.nested, 0U);
  EXPECT_LT(checkpoint.kept, all.kept);
  EXPECT_GT(recipes_under("offload").offloaded, 0U);
}

}  // namespace
}  // namespace palimpsest::train
