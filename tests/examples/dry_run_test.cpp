// Forecasts that the examples make before they train: dry runs, what a plan consists of, the largest batch and depth,
// and advice where memory does not suffice.

#include <gtest/gtest.h>

#include "examples/harness/command_line.hpp"
#include "examples/harness/dry_run.hpp"
#include "examples/harness/largest_fit.hpp"
#include "examples/harness/memory_advice.hpp"
#include "tests/examples/small_densenet.hpp"

namespace palimpsest::harness {
namespace {

TEST(DryRun, PredictsByTagAndTouchesNoOtherMemory) {
  const std::size_t before = allocator(Device::Cpu).stats().live;
  Options options;
  const Forecast forecast = dry_run(small_densenet(10), options, {});
  std::size_t sum = 0;
  for (const std::size_t bytes : forecast.peak.by_tag) sum += bytes;
  EXPECT_EQ(sum, forecast.peak.total);
  EXPECT_GT(forecast.peak.total, 0U);
  EXPECT_GT(forecast.parameters, 0);
  EXPECT_EQ(allocator(Device::Cpu).stats().live, before);
  EXPECT_EQ(allocator(Device::MetaCpu).stats().live, 0U);
}

TEST(DryRun, StandsForTheDevice) {
  Options options;
  options.data = "synthetic";
  const Forecast cpu = dry_run(small_densenet(10), options, {});
  const Forecast cuda = dry_run(small_densenet(10), options, {}, Device::Cuda);
  const auto bytes = [](const Forecast& forecast, Tag tag) {
    return forecast.peak.by_tag[static_cast<std::size_t>(tag)];
  };
  EXPECT_EQ(bytes(cuda, Tag::Parameter), bytes(cpu, Tag::Parameter));
  constexpr std::size_t image = 3 * 32 * 32;
  EXPECT_EQ(bytes(cpu, Tag::Data), 4 * 64 * (4 * image + 4));  // the batch, and the loader's three
  EXPECT_EQ(bytes(cuda, Tag::Data), 64 * (4 * image + 4) + 2 * 64 * (image + 16) + 3 * 1024);
}

TEST(DryRun, BlamesTheFlags) {
  Options options;
  EXPECT_THROW(dry_run(small_densenet(11), options, {}), UsageError);
  options.memory = "reversible";
  try {
    dry_run(small_densenet(10), options, {});
    FAIL() << "there is nothing to reverse in a DenseNet";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("shared"), std::string::npos) << error.what();
  }
  EXPECT_EQ(allocator(Device::MetaCpu).stats().live, 0U);
}

TEST(DryRun, TheBytesThatDecideAreThoseOfTheForecast) {
  Options options;
  options.data = "synthetic";
  for (const bool evaluate : {true, false}) {
    options.evaluate = evaluate;
    for (const std::int64_t batch : {4, 64}) {
      options.batch_size = batch;
      const Forecast forecast = dry_run(small_densenet(10), options, {});
      EXPECT_EQ(dry_run_bytes(small_densenet(10), {memory::parse_rules("store-all")}, options, {}),
                std::max(forecast.peak.total, forecast.evaluation.total));
    }
  }
}

memory::RecipeCounts recipes_under(const char* policy) {
  Options options;
  options.data = "synthetic";
  return memory::count_recipes(record_dry_run(small_densenet(10), {memory::parse_rules(policy)}, options, {}));
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

/// All curves that the search is for: lines and parabolas with kinks, from every start, with and without small numbers.
TEST(FindLargest, FindsTheLastThatFitsWithFewTrials) {
  const std::vector<std::function<double(double)>> curves = {
      [](double n) { return 50 + 10 * n; }, [](double n) { return 1000 + 3 * n + 0.5 * n * n; },
      [](double n) { return std::max(2000 + n, 30 * n); }, [](double n) { return 7 * n + (std::int64_t(n) % 3); }};
  for (const auto& curve : curves) {
    for (const std::int64_t answer : {0, 1, 2, 17, 180, 999, 1000}) {
      for (const std::int64_t start : {1, 2, 16, 500, 1000}) {
        int calls = 0;
        std::int64_t highest = 0;
        FitSearch search{.budget = static_cast<std::size_t>(curve(static_cast<double>(answer) + 0.5)),
                         .start = start,
                         .most = 1000,
                         .bytes = [&](std::int64_t n) {
                           ++calls;
                           highest = std::max(highest, n);
                           return std::optional(static_cast<std::size_t>(curve(static_cast<double>(n))));
                         }};
        const std::size_t next = static_cast<std::size_t>(curve(static_cast<double>(answer + 1)));
        if (next <= search.budget) continue;  // a curve that rises too slowly to tell the two apart
        const auto found = find_largest(search);
        ASSERT_TRUE(found.has_value());
        EXPECT_EQ(*found, (LargestFit{answer, true})) << "from " << start;
        EXPECT_LE(calls, 16) << answer << " from " << start;
        EXPECT_LE(highest, std::max(start, 4 * answer + 2)) << answer << " from " << start;
        search.most_calls = 2;
        const auto hurried = find_largest(search);
        EXPECT_LE(hurried->number, answer);
      }
    }
  }
}

TEST(FindLargest, LeavesOutWhatThereIsNot) {
  FitSearch search{.budget = 100, .start = 20, .most = 1000, .bytes = [](std::int64_t n) -> std::optional<std::size_t> {
                     if (n < 12) return std::nullopt;
                     return static_cast<std::size_t>(5 * n);
                   }};
  EXPECT_EQ(find_largest(search), (LargestFit{20, true}));
  search.budget = 75;
  EXPECT_EQ(find_largest(search), (LargestFit{15, true}));
  search.budget = 50;
  EXPECT_EQ(find_largest(search), std::nullopt);
}

/// An evaluation of more images than a training step sees is what needs most here.
TEST(EvaluationAdvice, ComparesWhatEvaluationsNeed) {
  Options options;
  options.data = "synthetic";
  options.train_limit = 2;
  options.batch_size = 64;
  const Forecast whole = dry_run(small_densenet(10), options, {});
  ASSERT_GT(whole.evaluation.total, whole.peak.total);
  for (const char* policy : {"shared", "checkpoint", "offload"}) {
    options.memory = policy;
    EXPECT_EQ(dry_run(small_densenet(10), options, {}).evaluation.total, whole.evaluation.total) << policy;
  }
  options.batch_size = 16;
  const std::size_t quarter = dry_run(small_densenet(10), options, {}).evaluation.total;
  options.batch_size = 64;
  const auto advice = [&](std::size_t limit) {
    return evaluation_advice(small_densenet(10), options, {}, Device::Cpu, limit);
  };
  const std::string expected = concat_text("--batch-size 16 (", format_mebibytes(quarter), ") or --no-eval");
  for (const std::size_t limit : {quarter, quarter + 1}) {
    EXPECT_NE(advice(limit).find(expected), std::string::npos) << advice(limit);
    EXPECT_NE(advice(limit).find(format_mebibytes(whole.evaluation.total)), std::string::npos) << advice(limit);
    EXPECT_EQ(advice(limit).find("--memory"), std::string::npos) << advice(limit);
  }
  EXPECT_NE(advice(quarter - 1).find("--batch-size 8 ("), std::string::npos) << advice(quarter - 1);
  EXPECT_NE(advice(0).find("--batch-size 32 ("), std::string::npos) << "the limit is not known: " << advice(0);
  EXPECT_EQ(advice(1).find("--batch-size"), std::string::npos) << advice(1);
  EXPECT_NE(advice(1).find("--no-eval"), std::string::npos) << advice(1);
}

}  // namespace
}  // namespace palimpsest::harness
