// Advice for a run that has run out of memory.

#include <gtest/gtest.h>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/reports/advice.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include "tests/train/small_tasks.hpp"

namespace palimpsest::reports {
namespace {

/// An evaluation of more images than a training step sees is what needs most here.
TEST(EvaluationAdvice, ComparesWhatEvaluationsNeed) {
  train::Task task = test::small_densenet(10);
  task.training.samples = 2;
  train::Options options{.batch_size = 64};
  const train::Forecast whole = train::rehearse(task, options);
  ASSERT_GT(whole.evaluation.total, whole.peak.total);
  for (const char* policy : {"shared", "checkpoint", "offload"}) {
    options.memory = policy;
    EXPECT_EQ(train::rehearse(task, options).evaluation.total, whole.evaluation.total) << policy;
  }
  options.batch_size = 16;
  const std::size_t quarter = train::rehearse(task, options).evaluation.total;
  options.batch_size = 64;
  const auto advice = [&](std::size_t limit) { return evaluation_advice(task, options, limit); };
  const std::string expected = concat_text("batch_size 16 (", format_mebibytes(quarter), ") or no evaluation");
  for (const std::size_t limit : {quarter, quarter + 1}) {
    EXPECT_NE(advice(limit).find(expected), std::string::npos) << advice(limit);
    EXPECT_NE(advice(limit).find(format_mebibytes(whole.evaluation.total)), std::string::npos) << advice(limit);
    EXPECT_EQ(advice(limit).find("memory "), std::string::npos) << advice(limit);
  }
  EXPECT_NE(advice(quarter - 1).find("batch_size 8 ("), std::string::npos) << advice(quarter - 1);
  EXPECT_NE(advice(0).find("batch_size 32 ("), std::string::npos) << "the limit is not known: " << advice(0);
  EXPECT_EQ(advice(1).find("batch_size"), std::string::npos) << advice(1);
  EXPECT_NE(advice(1).find("no evaluation"), std::string::npos) << advice(1);
}

/// Every policy of the advice keeps to the limit, and so does the budget.
TEST(MemoryAdvice, NamesWhatFits) {
  const train::Task task = test::small_densenet(10);
  train::Options options{.batch_size = 16};
  const std::size_t limit = train::rehearse(task, options).peak.total - 1;
  for (const std::size_t known : {limit, std::size_t{0}}) {
    const std::string advice = memory_advice(task, options, known);
    for (const std::string_view policy : memory::names()) {
      options.memory = policy;
      if (policy == "reversible") {
        EXPECT_THROW(train::rehearse(task, options), ValueError);
        continue;
      }
      const bool fits = train::rehearse(task, options).peak.total <= limit;
      EXPECT_EQ(advice.find(concat_text("memory ", policy, " (")) != std::string::npos, fits) << policy << advice;
    }
    options.memory = "store-all";
    const std::string mark = "memory budget=";
    ASSERT_NE(advice.find(mark), std::string::npos) << advice;
    // The advice keeps to the limit.
    const std::string text = advice.substr(advice.find(mark) + mark.size() - 7);
    const train::Options advised{.memory = text.substr(0, text.find(' ')), .batch_size = 16};
    EXPECT_LE(train::rehearse(task, advised, train::choose_memory(task, advised)).peak.total, limit) << advice;
    EXPECT_EQ(advice.find("or more") != std::string::npos, known == 0) << advice;
  }
  const memory::Planner planner = *train::choose_memory(task, {.memory = "budget=90%", .batch_size = 16}).planner;
  const std::size_t least = planner.candidates().front().forecast.peak;
  EXPECT_NE(memory_advice(task, options, least).find(concat_text("memory budget=", least)), std::string::npos)
      << "no whole MiB is as little";
  EXPECT_NE(memory_advice(task, options, 1).find("no policy fits with batches of 16"), std::string::npos);
}

}  // namespace
}  // namespace palimpsest::reports
