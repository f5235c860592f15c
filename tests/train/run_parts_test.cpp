// The parts of a training run that need no training: lengths, records, peaks, files, signals.

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <palimpsest/train/interrupt.hpp>
#include <palimpsest/train/progress.hpp>
#include <palimpsest/train/trainer.hpp>
#include "tests/train/small_tasks.hpp"

namespace palimpsest::train {
namespace {

namespace fs = std::filesystem;

TEST(RunLength, CountsThePartialBatchAndStopsAtTheStepLimit) {
  Task task = test::small_densenet(10);
  task.training.samples = 100;
  Options options{.batch_size = 64, .epochs = 3};
  EXPECT_EQ(run_length(task, options).steps_per_epoch, 2);
  EXPECT_EQ(run_length(task, options).steps, 6);
  EXPECT_EQ(run_length(task, options).epochs, 3);
  options.max_steps = 3;
  EXPECT_EQ(run_length(task, options).steps, 3);
  EXPECT_EQ(run_length(task, options).epochs, 2);
  options.batch_size = 1000;
  EXPECT_EQ(run_length(task, options).batch_size, 100);
  options.batch_size = 0;
  EXPECT_THROW(run_length(task, options), ValueError);
  task.training = {};
  EXPECT_THROW(run_length(task, {}), ValueError);
}

TEST(StepToWatch, IsTheFirstSteadyOneWithAWholeBatch) {
  EXPECT_EQ(step_to_watch({.batch_size = 4, .steps_per_epoch = 4, .epochs = 1, .steps = 4}, 16), 1);
  EXPECT_EQ(step_to_watch({.batch_size = 4, .steps_per_epoch = 2, .epochs = 2, .steps = 4}, 6), 2);
  EXPECT_EQ(step_to_watch({.batch_size = 4, .steps_per_epoch = 2, .epochs = 1, .steps = 2}, 6), 0);
  EXPECT_EQ(step_to_watch({.batch_size = 4, .steps_per_epoch = 1, .epochs = 3, .steps = 3}, 4), 1);
  EXPECT_EQ(step_to_watch({.batch_size = 4, .steps_per_epoch = 4, .epochs = 1, .steps = 1}, 16), 0);
}

TEST(PeakMeter, LeavesOutWhatHappensWhilePaused) {
  constexpr std::size_t size = 1 << 20;
  const std::size_t base = allocator(Device::MetaCpu).stats().live;
  PeakMeter meter(Device::MetaCpu);
  { const Buffer training(Device::MetaCpu, size, Tag::Activation); }
  {
    const PeakMeter::Pause pause(meter);
    { const Buffer evaluation(Device::MetaCpu, 5 * size, Tag::Activation); }
    EXPECT_EQ(meter.peak().total, base + size);
  }
  EXPECT_EQ(meter.peak().total, base + size);
  { const Buffer training(Device::MetaCpu, 2 * size, Tag::Gradient); }
  EXPECT_EQ(meter.peak().total, base + 2 * size);
  EXPECT_EQ(meter.peak().by_tag[static_cast<std::size_t>(Tag::Gradient)], 2 * size);
  EXPECT_GE(meter.peak().reserved, 5 * size);
}

RunRecord three_steps() { return {.steps = {{2.5, 1000, 10}, {1.0 / 3, 100, 10}, {1.5, 300, 10}}}; }

TEST(RunRecord, LeavesTheFirstStepOutOfTheRate) {
  const RunRecord record = three_steps();
  EXPECT_DOUBLE_EQ(record.samples_per_second(), 50);
  EXPECT_DOUBLE_EQ(record.samples_per_second(1), 10 / 0.3);
  EXPECT_DOUBLE_EQ((RunRecord{.steps = {{1, 500, 10}}}).samples_per_second(), 20);
  EXPECT_EQ(RunRecord{}.samples_per_second(), 0);
  EXPECT_DOUBLE_EQ(record.mean_loss(1), (1.0 / 3 + 1.5) / 2);
}

TEST(RunRecord, AMetricIsThatOfTheLastStepOrNone) {
  RunRecord record = three_steps();
  EXPECT_EQ(record.metric(), std::nullopt);
  record.evaluations.push_back({3, 0.875});
  EXPECT_EQ(record.metric(), 0.875);
  record.steps.push_back({1, 1, 1});
  EXPECT_EQ(record.metric(), std::nullopt);
}

TEST(Interrupt, TheFirstSignalIsNoted) {
  const InterruptGuard guard;
  EXPECT_FALSE(interrupted());
  std::raise(SIGINT);
  EXPECT_TRUE(interrupted());
}

volatile std::sig_atomic_t handled = 0;

TEST(Interrupt, TheProgramsOwnHandlersComeBack) {
  const auto before = std::signal(SIGTERM, [](int) { handled = 1; });
  { const InterruptGuard guard; }
  std::raise(SIGTERM);
  EXPECT_EQ(handled, 1);
  std::signal(SIGTERM, before);
}

TEST(Interrupt, TheSecondSignalEndsTheProcess) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(
      {
        const InterruptGuard guard;
        std::raise(SIGINT);
        std::raise(SIGTERM);
      },
      testing::KilledBySignal(SIGTERM), "");
}

TEST(Progress, WritesDurations) {
  EXPECT_EQ(format_duration(0.2), "0 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(272), "4:32");
  EXPECT_EQ(format_duration(3723), "1:02:03");
}

TEST(Progress, WritesMetrics) {
  Task task;
  EXPECT_EQ(format_metric(task, 0.91255), "91.25 %");
  task.metric_is_share = false;
  EXPECT_EQ(format_metric(task, 0.0125), "0.0125");
}

}  // namespace
}  // namespace palimpsest::train
