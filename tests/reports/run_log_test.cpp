// The log of a run: its files row by row, what a resumed run keeps of them, and what happens where they cannot grow.

#include <palimpsest/reports/run_log.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include <palimpsest/core/error.hpp>
#include <palimpsest/ops/mse_loss.hpp>
#include <palimpsest/reports/event_file.hpp>
#include <palimpsest/reports/run.hpp>
#include "tests/support/file_limit.hpp"
#include "tests/support/temporary_folder.hpp"
#include "tests/train/row_task.hpp"

namespace palimpsest::reports {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class RunLogTest : public testing::InTemporaryFolder {
 protected:
  RunLogTest() : log_(folder_ / "log") {}

  std::string content(const std::string& name) const { return InTemporaryFolder::content("log/" + name); }
  std::vector<std::string> lines(const std::string& name) const {
    std::istringstream in(content(name));
    std::vector<std::string> found;
    for (std::string line; std::getline(in, line);) found.push_back(line);
    return found;
  }
  /// All the files that have rows.
  std::vector<std::string> rows() const {
    return {content(LogNames::steps), content(LogNames::evaluations), content(LogNames::lines)};
  }
  std::int64_t last_event() const {
    const std::string events = content(LogNames::events);
    const EventPrefix all = events_up_to(events, INT64_MAX);
    EXPECT_EQ(all.bytes, events.size()) << "a record that is not whole";
    return all.last_step;
  }
  void append(const std::string& name, const std::string& text) const {
    std::ofstream(log_ / name, std::ios::binary | std::ios::app) << text;
  }
  RunLog::Warn warn() {
    return [this](const std::string& line) { warnings_.push_back(line); };
  }
  std::string warnings() const {
    std::string all;
    for (const std::string& line : warnings_) all += line + "\n";
    return all;
  }

  fs::path log_;
  std::vector<std::string> warnings_;
};

const LogFacts facts{.model = "Net", .policy = "shared", .steps = 10, .steps_per_epoch = 5, .unit = "images"};

/// A step whose loss tells its number.
LogStep numbered(std::int64_t number) {
  return {.loss = 1.0 / static_cast<double>(number), .learning_rate = 0.1, .samples = 8, .peak = 1000};
}

void log_steps(RunLog& log, std::int64_t last) {
  while (log.steps() < last) log.step(numbered(log.steps() + 1));
}

TEST_F(RunLogTest, HasEveryNumberOfEveryStepInEachFile) {
  const double loss = static_cast<double>(0.1F) / 3;
  RunLog log(log_, facts, std::nullopt, warn());
  log.step({.loss = loss, .learning_rate = 0.1, .samples = 8, .peak = 12'345'678'901});
  EXPECT_EQ(lines(LogNames::steps).size(), 2U) << "a row is written with its step";
  log.step({.loss = 2, .learning_rate = 1e-7, .samples = 4, .peak = 17});
  log.evaluated(0.8125);
  const std::vector<std::string> csv = lines(LogNames::steps);
  EXPECT_EQ(csv[0], "step,loss,learning_rate,images_per_second,peak_bytes");
  EXPECT_EQ(csv[1].substr(csv[1].find(",0.1,")), ",0.1,,12345678901") << "the first row has no time before it";
  EXPECT_EQ(std::stod(csv[1].substr(2)), loss) << "the same number comes back";
  EXPECT_EQ(csv[2].substr(0, 10), "2,2,1e-07,");
  EXPECT_EQ(content(LogNames::evaluations), "step,test_accuracy\n2,0.8125\n");
  const std::vector<std::string> json = lines(LogNames::lines);
  ASSERT_EQ(json.size(), 3U);
  EXPECT_EQ(Json::parse(json[0])["loss"], loss);
  EXPECT_EQ(Json::parse(json[0])["images_per_second"], nullptr);
  EXPECT_EQ(Json::parse(json[0])["peak_bytes"], 12'345'678'901);
  EXPECT_GT(Json::parse(json[1])["images_per_second"], 0);
  EXPECT_EQ(json[2], R"({"step":2,"test_accuracy":0.8125})");
  EXPECT_EQ(last_event(), 2);
  EXPECT_EQ(Json::parse(content(LogNames::facts))["policy"], "shared");
  const RunHistory read = read_log(log_);
  EXPECT_EQ(read.losses, (std::vector<double>{loss, 2}));
  EXPECT_EQ(read.peaks, (std::vector<std::size_t>{12'345'678'901, 17}));
  EXPECT_TRUE(std::isnan(read.rates[0]));
  EXPECT_EQ(read.rates[1], Json::parse(json[1])["images_per_second"]);
  EXPECT_EQ(read.metrics, std::vector<double>{0.8125});
  EXPECT_EQ(warnings(), "");
}

TEST_F(RunLogTest, KeepsNumbersThatAreNone) {
  RunLog log(log_, facts, std::nullopt, warn());
  log.step({.loss = std::nan(""), .learning_rate = 0.1});
  log.step({.loss = std::numeric_limits<double>::infinity(), .learning_rate = 0.1});
  const std::vector<std::string> csv = lines(LogNames::steps);
  EXPECT_EQ(csv[1].substr(0, 6), "1,nan,");
  EXPECT_EQ(csv[2].substr(0, 6), "2,inf,");
  EXPECT_EQ(Json::parse(lines(LogNames::lines)[0])["loss"], nullptr);
  EXPECT_TRUE(std::isinf(read_log(log_).losses[1]));
  EXPECT_TRUE(log.finish()) << warnings();
}

TEST_F(RunLogTest, RefusesAFolderThatHasALog) {
  { RunLog begun(log_, facts, std::nullopt, warn()); }
  EXPECT_NO_THROW(check_log(log_, false)) << "a run without a row has left no log";
  {
    RunLog log(log_, facts, std::nullopt, warn());
    log_steps(log, 2);
  }
  const std::vector<std::string> before = rows();
  try {
    RunLog again(log_, facts, std::nullopt, warn());
    FAIL() << "there is a log";
  } catch (const ValueError& error) {
    const std::string text = error.what();
    for (const std::string& part : {log_.string(), std::string("resume that run, name another folder")}) {
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
  }
  EXPECT_EQ(rows(), before);
}

TEST_F(RunLogTest, AResumedRunHasEachStepOnce) {
  std::vector<std::string> whole;
  {
    RunLog log(log_, facts, std::nullopt, warn());
    log_steps(log, 4);
    log.evaluated(0.5);
    whole = rows();
    const std::string events = content(LogNames::events);
    log_steps(log, 6);
    log.evaluated(0.6);
    // The end of the process in the middle of a row.
    append(LogNames::steps, "7,0.12");
    append(LogNames::lines, R"({"step":7,"lo)");
    append(LogNames::evaluations, "6");
    append(LogNames::events, events.substr(0, 20));
  }
  {
    RunLog log(log_, facts, LogResumed{.steps = 4}, warn());
    EXPECT_EQ(rows(), whole);
    EXPECT_EQ(last_event(), 4);
    log.evaluated(0.5);  // once more, as a run does that was stopped after it
    EXPECT_EQ(rows(), whole);
    log_steps(log, 10);
  }
  EXPECT_EQ(read_log(log_).steps, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(lines(LogNames::lines).size(), 11U);
  EXPECT_EQ(last_event(), 10);
  EXPECT_EQ(warnings(), "");
}

TEST_F(RunLogTest, KeepsARowWithoutAnEndOnlyIfItHasOne) {
  {
    RunLog log(log_, facts, std::nullopt, warn());
    log_steps(log, 3);
  }
  append(LogNames::steps, "4,0.25,0.1,,1000");  // whole but for the end of the line
  EXPECT_EQ(read_log(log_).steps.size(), 3U);
  RunLog log(log_, facts, LogResumed{.steps = 3}, warn());
  EXPECT_EQ(lines(LogNames::steps).size(), 4U);
}

TEST_F(RunLogTest, SaysWhichRowsAResumedRunLacks) {
  {
    RunLog log(log_, facts, std::nullopt, warn());
    log_steps(log, 3);
  }
  RunLog log(log_, facts, LogResumed{.steps = 8}, warn());
  ASSERT_EQ(warnings_.size(), 3U) << warnings();
  EXPECT_NE(warnings_[0].find("steps.csv lacks the rows of steps 4 to 8"), std::string::npos) << warnings();
  log_steps(log, 9);
  EXPECT_EQ(read_log(log_).steps, (std::vector<std::int64_t>{1, 2, 3, 9}));
}

TEST_F(RunLogTest, ResumesFromTheBeginningAndWhereThereIsNoLog) {
  RunLog log(log_, facts, LogResumed{.steps = 0}, warn());
  log_steps(log, 2);
  EXPECT_EQ(read_log(log_).steps.size(), 2U);
  EXPECT_EQ(warnings(), "");
}

TEST_F(RunLogTest, LeavesWhatIsNoLogOfThisRunAsItWas) {
  {
    RunLog log(log_, facts, std::nullopt, warn());
    log_steps(log, 3);
  }
  LogFacts other = facts;
  other.unit = "rows";
  const std::vector<std::string> before = rows();
  EXPECT_THROW(RunLog(log_, other, LogResumed{.steps = 1}, warn()), DataError);
  EXPECT_EQ(rows(), before);
  append(LogNames::lines, "no row\n");
  const std::vector<std::string> damaged = rows();
  try {
    RunLog log(log_, facts, LogResumed{.steps = 3}, warn());
    FAIL() << "a line is no row";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("metrics.jsonl, line 4: 'no row'"), std::string::npos) << error.what();
  }
  EXPECT_EQ(rows(), damaged);
}

TEST_F(RunLogTest, FindsOutALogOfAnotherRunByItsLosses) {
  {
    RunLog log(log_, facts, std::nullopt, warn());
    for (const double loss : {0.5, 0.25, 0.125}) log.step({.loss = loss});
  }
  const std::vector<std::string> before = rows();
  EXPECT_THROW(RunLog(log_, facts, LogResumed{.steps = 2, .losses = {0.5, 0.75}}, warn()), DataError);
  EXPECT_EQ(rows(), before);
  const RunLog same(log_, facts, LogResumed{.steps = 2, .losses = {0.5, 0.25}}, warn());
  EXPECT_EQ(read_log(log_).steps.size(), 2U);
}

TEST_F(RunLogTest, FailsBeforeTheFirstStep) {
  std::ofstream(folder_ / "file") << "text";
  try {
    check_log(folder_ / "file" / "log", false);
    FAIL() << "a file is no folder";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find((folder_ / "file" / "log").string()), std::string::npos) << error.what();
  }
  RunLog first(log_, facts, std::nullopt, warn());
  EXPECT_THROW(RunLog(log_, facts, LogResumed{}, warn()), ValueError) << "two runs at once";
}

TEST_F(RunLogTest, AFullDiskIsOneWarningAndRowsWait) {
  RunLog log(log_, facts, std::nullopt, warn());
  log_steps(log, 2);
  {
    const testing::FileLimit full(content(LogNames::steps).size() + 10);  // room for a part of a row
    log_steps(log, 6);
    EXPECT_EQ(warnings_.size(), 1U) << warnings();
    EXPECT_NE(warnings().find("the run goes on"), std::string::npos) << warnings();
    EXPECT_EQ(lines(LogNames::steps).size(), 3U) << content(LogNames::steps);
    EXPECT_EQ(content(LogNames::steps).back(), '\n');
    EXPECT_EQ(last_event(), 2);
  }
  log_steps(log, 7);
  EXPECT_EQ(read_log(log_).steps, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(lines(LogNames::lines).size(), 7U);
  EXPECT_EQ(last_event(), 7);
  EXPECT_EQ(warnings_.size(), 2U) << warnings();
  EXPECT_NE(warnings_.back().find("complete again"), std::string::npos) << warnings();
  EXPECT_TRUE(log.finish());
}

TEST_F(RunLogTest, SaysWhatIsMissingInTheEnd) {
  RunLog log(log_, facts, std::nullopt, warn());
  log_steps(log, 2);
  const testing::FileLimit full(content(LogNames::steps).size());
  log_steps(log, 5);
  EXPECT_FALSE(log.finish());
  EXPECT_NE(warnings().find("steps.csv lacks its last 3 rows"), std::string::npos) << warnings();
}

TEST_F(RunLogTest, FollowsATrainerToTheByte) {
  const train::Task task = test::row_task();
  const train::Options options{.batch_size = 8, .epochs = 2, .quiet = true};
  train::Trainer trainer(task, options, train::choose_memory(task, options));
  RunLog log(log_, log_facts(task, options), std::nullopt, warn());
  log.follow(trainer);
  trainer.run();
  EXPECT_TRUE(log.finish()) << warnings();
  const RunHistory read = read_log(log_);
  ASSERT_EQ(read.steps.size(), 6U);
  std::size_t peak = 0;
  for (std::size_t i = 0; i < read.steps.size(); ++i) {
    EXPECT_EQ(read.losses[i], trainer.record().steps[i].loss);
    EXPECT_EQ(read.learning_rates[i], 1e-3);
    EXPECT_EQ(read.peaks[i], trainer.record().steps[i].peak);
    peak = std::max(peak, read.peaks[i]);
  }
  EXPECT_EQ(peak, trainer.peak().total);
  EXPECT_LT(read.peaks[2], peak) << "the third batch has 4 rows, the others 8";
  EXPECT_EQ(read.peaks[2], read.peaks[5]);
  EXPECT_EQ(read.evaluated_steps, (std::vector<std::int64_t>{3, 6}));
  EXPECT_EQ(read.metrics[1], trainer.record().metric());
  EXPECT_EQ(read.facts.steps, 6);
  EXPECT_EQ(lines(LogNames::steps)[0], "step,loss,learning_rate,rows_per_second,peak_bytes");
  EXPECT_NE(content(LogNames::page).find("</html>"), std::string::npos);
}

TEST_F(RunLogTest, GoesWithALoopByHand) {
  test::Net net(nn::Init(1));
  nn::Sgd sgd(net.parameters(), {.learning_rate = 1e-3});
  const std::string folder = log_;
  {
    reports::RunLog log(folder, {.model = "Net", .unit = "rows", .metric = "error", .metric_is_share = false});
    train::PeakMeter meter(Device::Cpu);
    for (std::int64_t step = 0; step < 10; ++step) {
      const std::vector<Tensor> batch = test::rows(/*epoch=*/0, step * 8, 8, Device::Cpu);
      sgd.zero_grad();
      const Tensor loss = ops::mse_loss(net(batch[0]), batch[1]);
      loss.backward();
      sgd.step();
      log.step({.loss = loss.item(),
                .learning_rate = sgd.learning_rate(),
                .samples = 8,
                .peak = meter.take_lap()});  // bytes at the peak since the last call
      if (step % 5 == 4) log.evaluated(loss.item());
    }
    log.finish();  // and the page
  }
  const RunHistory read = read_log(folder);
  EXPECT_EQ(read.steps.size(), 10U);
  EXPECT_EQ(read.evaluated_steps, (std::vector<std::int64_t>{5, 10}));
  EXPECT_EQ(read.peaks[3], read.peaks[9]);
  EXPECT_GT(read.peaks[9], 0U);
}

TEST_F(RunLogTest, IsWrittenByARunAndRefusedBeforeTheModelIsMade) {
  std::ostringstream out;
  int models = 0;
  train::Task task = test::row_task();
  task.make_model = [&, make = task.make_model](nn::Init init) {
    ++models;
    return make(std::move(init));
  };
  reports::Run run(task, {.batch_size = 8, .quiet = true}, {.log_dir = log_});
  EXPECT_TRUE(run.train(out));
  EXPECT_EQ(read_log(log_).steps.size(), 3U);
  EXPECT_NE(content(LogNames::page).find("</html>"), std::string::npos);
  models = 0;
  EXPECT_THROW(reports::Run(task, {.batch_size = 8, .quiet = true}, {.log_dir = log_}), ValueError);
  EXPECT_EQ(models, 0);
}

TEST(EventFile, IsCutAtAnyByteToWholeRecords) {
  const auto record = [](std::int64_t step) {
    return event_record(1.5e9, step, std::array{Scalar{"loss", 0.5}, Scalar{"rate", 1e300}});
  };
  const std::string begin = event_file_begin(1.5e9);
  const std::string events = begin + record(1) + record(300);
  const std::size_t first = begin.size() + record(1).size();
  for (std::size_t size = 0; size <= events.size(); ++size) {
    const EventPrefix kept = events_up_to(std::string_view(events).substr(0, size), 1000);
    EXPECT_EQ(kept.bytes, size < begin.size() ? 0 : size < first ? begin.size() : size < events.size() ? first : size);
  }
  EXPECT_EQ(events_up_to(events, 299).bytes, first);
  EXPECT_EQ(events_up_to(events, 300).last_step, 300);
  std::string damaged = events;
  damaged[first - 6] ^= 1;
  EXPECT_EQ(events_up_to(damaged, 1000).bytes, begin.size());
}

}  // namespace
}  // namespace palimpsest::reports
