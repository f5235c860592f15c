// Runs that are kept while they go on, and taken up again: to the bit, or not at all.

#include <gtest/gtest.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/datasets/synthetic.hpp>
#include <palimpsest/storage/safetensors.hpp>
#include <palimpsest/train/checkpoints.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/trainer.hpp>
#include "tests/support/file_limit.hpp"
#include "tests/support/temporary_folder.hpp"
#include "tests/train/small_tasks.hpp"

namespace palimpsest::train {
namespace {

namespace fs = std::filesystem;

/// A DenseNet with dropout on augmented images: 3 steps in an epoch, the last of them smaller; the rate falls in
/// the second.
Task dropout_task(int workers = 1) {
  const auto images = std::make_shared<datasets::ImageSet>(datasets::synthetic({.count = 20, .seed = 3}));
  Task task = test::image_task([](nn::Init init) {
    nn::DenseNetOptions options = nn::DenseNetOptions::cifar(10, 4);
    options.dropout = 0.2;
    return std::make_unique<nn::DenseNet>(options, std::move(init));
  });
  task.training =
      image_data("synthetic", images, {.seed = 5, .augmentation = {.flip = true, .pad = 4}, .workers = workers});
  task.evaluation = image_data("synthetic", images, {.shuffle = false});
  task.schedule = [](std::int64_t) { return nn::Schedule::step(0.1, {4}); };
  return task;
}

Options run_of(const std::string& memory, std::int64_t epochs = 3) {
  return {.memory = memory, .batch_size = 8, .epochs = epochs, .quiet = true};
}

/// All numbers that a run has made.
struct Outcome {
  std::string digest;
  std::vector<double> losses;
  std::vector<double> metrics;

  explicit Outcome(const Trainer& trainer) : digest(trainer.model().state_digest()) {
    for (const StepResult& step : trainer.record().steps) losses.push_back(step.loss);
    for (const Evaluation& evaluation : trainer.record().evaluations) metrics.push_back(evaluation.metric);
  }
  bool operator==(const Outcome&) const = default;
};

/// Runs until it is over, or a signal comes when `last` steps are done.
Outcome outcome_of(const Task& task, const Options& options, std::int64_t last = -1) {
  const MemoryChoice memory = choose_memory(task, options);
  Trainer trainer(task, options, memory);
  const Forecast forecast = rehearse(task, options, memory);
  if (last > 0) trainer.watch(last - 1, [](const auto&) { std::raise(SIGTERM); });
  trainer.run();
  if (last > 0) {
    EXPECT_EQ(trainer.record().signal, SIGTERM);
    EXPECT_EQ(trainer.record().steps.size(), static_cast<std::size_t>(last));
  }
  EXPECT_LE(trainer.peak().total, forecast.peak.total);
  return Outcome(trainer);
}

TEST(Resume, ResumesToTheBitAfterEveryStepUnderEveryPolicy) {
  const std::vector<std::string> policies = {"store-all",         "shared",  "checkpoint", "dense1=shared,*=checkpoint",
                                             "checkpoint+shared", "offload", "budget=6MiB"};
  const Outcome undisturbed = outcome_of(dropout_task(), run_of("store-all"));
  ASSERT_EQ(undisturbed.losses.size(), 9U);
  ASSERT_EQ(undisturbed.metrics.size(), 3U);
  const int threads = thread_count();
  for (std::size_t last = 1; last <= 9; ++last) {
    for (std::size_t i = last % 2; i < policies.size(); i += 3) {
      const std::string& after = policies[(i + last) % policies.size()];
      SCOPED_TRACE(concat_text(last, " steps under ", policies[i], ", then ", after));
      const testing::TemporaryFolder folder;
      Options before = run_of(policies[i]);
      before.checkpoints.folder = folder / "run";
      set_thread_count(1);
      outcome_of(dropout_task(), before, static_cast<std::int64_t>(last));
      Options resumed = run_of(after);
      resumed.resume = folder / "run";
      set_thread_count(2);
      EXPECT_EQ(outcome_of(dropout_task(/*workers=*/3), resumed), undisturbed);
    }
  }
  set_thread_count(threads);
}

TEST(Resume, TakesNothingOfTheMemoryThatWasForeseen) {
  const testing::TemporaryFolder folder;
  Options options = run_of("shared");
  options.checkpoints = {.folder = folder / "run", .every = "1steps"};
  const Task task = dropout_task();
  const MemoryChoice memory = choose_memory(task, options);
  allocator(Device::Cpu).release_cached();  // of the tests before
  const Forecast forecast = rehearse(task, options, memory);
  Trainer trainer(task, options, memory);
  trainer.run();
  EXPECT_EQ(trainer.peak().total, forecast.peak.total);
  EXPECT_EQ(trainer.peak().reserved, forecast.peak.reserved);
  std::size_t bytes = 0;
  storage::SafetensorsReader reader(checkpoints_in(folder / "run").front());
  for (const storage::StoredTensor& tensor : reader.tensors()) {
    const bool beside = tensor.name.starts_with("record/") || tensor.name.starts_with("random/");
    if (!beside) bytes += tensor.bytes;
  }
  EXPECT_EQ(bytes, forecast.checkpoint);
}

TEST(Resume, OtherSettingsAreOneError) {
  const testing::TemporaryFolder folder;
  Options options = run_of("store-all", 1);
  options.settings = {{"--depth", "10"}, {"--growth", "4"}};
  options.checkpoints.folder = folder / "run";
  outcome_of(dropout_task(), options);
  options.checkpoints = {};
  options.resume = folder / "run";
  options.seed = 8;
  options.settings = {{"--depth", "16"}, {"--reduction", "0.5"}};
  try {
    outcome_of(dropout_task(), options);
    FAIL() << "another run was resumed";
  } catch (const ResumeError& error) {
    for (const char* const part : {"seed is 8, 0 in the checkpoint", "--depth is 16, 10 in the checkpoint",
                                   "--reduction is 0.5, not set in the checkpoint", "--growth is not set, 4 in the"}) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  Task other = dropout_task();
  other.schedule = [](std::int64_t) { return nn::Schedule::step(0.1, {2}); };
  Options same = run_of("store-all", 2);
  same.settings = {{"--depth", "10"}, {"--growth", "4"}};
  same.resume = folder / "run";
  try {
    outcome_of(other, same);
    FAIL() << "another schedule was taken up";
  } catch (const ResumeError& error) {
    EXPECT_NE(std::string(error.what()).find("the learning rate of step 3 is 0.01, 0.1 in the checkpoint"),
              std::string::npos)
        << error.what();
  }
  EXPECT_EQ(outcome_of(dropout_task(), same).losses.size(), 6U) << "a longer run whose rates have been the same";
}

/// A file of so many bytes whose byte at `place` has one bit turned over.
void damage(const std::string& file, std::uint64_t place) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(static_cast<std::streamoff>(place));
  const auto byte = static_cast<char>(stream.get() ^ 0x10);
  stream.seekp(static_cast<std::streamoff>(place));
  stream.put(byte);
}

TEST(Resume, ABitThatIsTurnedOverInAnyPartIsNamed) {
  const testing::TemporaryFolder folder;
  Options options = run_of("store-all", 1);
  options.checkpoints.folder = folder / "run";
  outcome_of(dropout_task(), options);
  const std::string whole = checkpoints_in(folder / "run").front();
  const storage::SafetensorsReader reader(whole);
  std::uint64_t data = fs::file_size(whole);
  for (const storage::StoredTensor& tensor : reader.tensors()) data -= tensor.bytes;
  const std::string copy = folder / "copy.safetensors";
  std::size_t parts = 0;
  for (const storage::StoredTensor& tensor : reader.tensors()) {
    if (tensor.bytes == 0) continue;
    fs::copy_file(whole, copy, fs::copy_options::overwrite_existing);
    damage(copy, data + tensor.begin + tensor.bytes / 2);
    try {
      verify_checkpoint(copy);
      ADD_FAILURE() << "damage in " << tensor.name << " was not seen";
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(tensor.name), std::string::npos) << error.what();
    }
    ++parts;
  }
  EXPECT_GT(parts, 30U);
  for (std::uint64_t place = 0; place < data; place += 13) {
    fs::copy_file(whole, copy, fs::copy_options::overwrite_existing);
    damage(copy, place);
    EXPECT_THROW(verify_checkpoint(copy), DataError) << "byte " << place << " of the header";
  }
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{7}, data - 1, data, fs::file_size(whole) - 1}) {
    fs::copy_file(whole, copy, fs::copy_options::overwrite_existing);
    fs::resize_file(copy, size);
    EXPECT_THROW(verify_checkpoint(copy), DataError) << size << " bytes";
  }
  EXPECT_NO_THROW(verify_checkpoint(whole));
}

TEST(Resume, TheNewestThatIsWholeIsTaken) {
  const Outcome undisturbed = outcome_of(dropout_task(), run_of("store-all"));
  const testing::TemporaryFolder folder;
  Options options = run_of("store-all");
  options.checkpoints = {.folder = folder / "run", .every = "1steps", .keep = 4};
  outcome_of(dropout_task(), options, 7);
  const std::vector<std::string> files = checkpoints_in(folder / "run");
  ASSERT_EQ(files.size(), 5U) << "the last four and the best";
  damage(files[0], fs::file_size(files[0]) - 1);
  fs::resize_file(files[1], 0);
  Options resumed = run_of("store-all");
  resumed.resume = folder / "run";
  {
    Trainer trainer(dropout_task(), resumed, choose_memory(dropout_task(), resumed));
    EXPECT_EQ(trainer.resumed_from(), files[2]);
    EXPECT_EQ(trainer.record().steps.size(), 5U);
    trainer.run();
    EXPECT_EQ(Outcome(trainer), undisturbed);
  }
  EXPECT_TRUE(fs::exists(files[0] + ".damaged"));
  EXPECT_TRUE(fs::exists(files[1] + ".damaged"));

  for (const std::string& file : checkpoints_in(folder / "run")) fs::resize_file(file, 3);
  EXPECT_THROW(outcome_of(dropout_task(), resumed), DataError);
}

TEST(Resume, TheLastAndTheBestAreKept) {
  for (const bool smaller_is_better : {false, true}) {
    const testing::TemporaryFolder folder;
    Task task = dropout_task();
    task.smaller_is_better = smaller_is_better;
    int evaluation = 0;  // 4, 3, 6, 5, 5, 5
    task.score = [&](nn::Module&, test::Batch batch) {
      constexpr std::array<double, 6> scores = {4, 3, 6, 5, 5, 5};
      const auto samples = batch[1].shape().count();
      if (is_meta(batch[0].device())) return Score{0, samples};
      const double score = scores[static_cast<std::size_t>(evaluation)];
      if (samples == 4) ++evaluation;
      return Score{score * static_cast<double>(samples), samples};
    };
    Options options = run_of("store-all", 6);
    options.checkpoints = {.folder = folder / "run", .every = "1epoch", .keep = 2};
    const MemoryChoice memory = choose_memory(task, options);
    Trainer(task, options, memory).run();
    std::vector<std::string> names;
    for (const std::string& file : checkpoints_in(folder / "run")) names.push_back(fs::path(file).filename().string());
    const std::string best = smaller_is_better ? "checkpoint-00000006.safetensors" : "checkpoint-00000009.safetensors";
    EXPECT_EQ(names,
              (std::vector<std::string>{"checkpoint-00000018.safetensors", "checkpoint-00000015.safetensors", best}));
  }
}

TEST(Resume, AFolderIsOneRunsAtATime) {
  const testing::TemporaryFolder folder;
  {
    const Checkpoints first({.folder = folder / "run"});
    EXPECT_THROW(Checkpoints({.folder = folder / "run"}), StateError);
  }
  EXPECT_NO_THROW(Checkpoints({.folder = folder / "run"})) << "the lock of one that is gone is in nobody's way";

  Options options = run_of("store-all", 1);
  options.checkpoints.folder = folder / "run";
  outcome_of(dropout_task(), options);
  EXPECT_THROW(outcome_of(dropout_task(), options), ResumeError) << "another run does not overwrite it";
  options.checkpoints.folder = folder / "other";
  options.resume = folder / "run";
  EXPECT_EQ(outcome_of(dropout_task(), options).losses.size(), 3U);
  EXPECT_EQ(checkpoints_in(folder / "other").size(), 1U);
  options.checkpoints.folder = folder / "third";
  options.resume = folder / "nothing";
  EXPECT_THROW(outcome_of(dropout_task(), options), DataError);
  EXPECT_FALSE(fs::exists(folder / "nothing"));
  options.checkpoints.folder = options.resume;
  EXPECT_EQ(outcome_of(dropout_task(), options).losses.size(), 3U) << "nothing to go on with yet";
}

TEST(Resume, ADiskThatIsFullOrAFolderThatHasGoneDoesNotEndTheRun) {
  const Outcome undisturbed = outcome_of(dropout_task(), run_of("store-all", 2));
  const testing::TemporaryFolder folder;
  Options options = run_of("store-all", 2);
  options.checkpoints = {.folder = folder / "run", .every = "1steps", .keep = 9};
  Task task = dropout_task();
  std::optional<testing::FileLimit> limit;
  std::vector<std::size_t> seen;
  const auto loss = task.loss;
  int steps = 0;
  task.loss = [&, loss](nn::Module& model, test::Batch batch) {
    if (!is_meta(batch[0].device())) {
      seen.push_back(checkpoints_in(folder / "run").size());
      if (++steps == 3) limit.emplace(1000);
      if (steps == 5) limit.reset();
      if (steps == 6) fs::rename(folder / "run", folder / "gone");  // at once, however far a write has come
    }
    return loss(model, batch);
  };
  ::testing::internal::CaptureStderr();
  const Outcome outcome = outcome_of(task, options);
  const std::string warnings = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(outcome, undisturbed);
  EXPECT_NE(warnings.find("the run goes on, and is kept in"), std::string::npos) << warnings;
  EXPECT_NE(warnings.find("checkpoint-00000003.safetensors"), std::string::npos) << warnings;
  EXPECT_LE(seen[4], 2U) << "nothing was added while there was no room";
  EXPECT_EQ(checkpoints_in(folder / "run").size(), 1U) << "the folder is made again";
}

TEST(Resume, ADivergedRunNamesItsLastCheckpoint) {
  const testing::TemporaryFolder folder;
  Options options = run_of("store-all");
  options.checkpoints = {.folder = folder / "run", .every = "1steps"};
  Task task = dropout_task();
  task.schedule = [](std::int64_t) { return nn::Schedule::step(0.1, {4}, 1e-28); };
  try {
    outcome_of(task, options);
    FAIL() << "nothing diverged";
  } catch (const DivergedError& error) {
    const std::string last = checkpoints_in(folder / "run").front();
    EXPECT_NE(std::string(error.what()).find("the last checkpoint is " + last), std::string::npos) << error.what();
    EXPECT_NO_THROW(verify_checkpoint(last));
  }
}

TEST(Resume, AnEvaluationThatWasOutstandingIsMadeUpFor) {
  const Outcome undisturbed = outcome_of(dropout_task(), run_of("store-all"));
  const testing::TemporaryFolder folder;
  Options options = run_of("store-all");
  options.checkpoints.folder = folder / "run";
  outcome_of(dropout_task(), options, 6);
  options.checkpoints = {};
  options.resume = folder / "run";
  {
    Trainer trainer(dropout_task(), options, choose_memory(dropout_task(), options));
    EXPECT_EQ(trainer.record().evaluations.size(), 1U) << "the signal came before the second";
  }
  EXPECT_EQ(outcome_of(dropout_task(), options), undisturbed);
  EXPECT_EQ(outcome_of(dropout_task(), options), undisturbed) << "and a run that is over stays as it is";
}

TEST(Resume, EvaluationsLeaveNoTraceInARun) {
  Task unevaluated = dropout_task();
  unevaluated.evaluation = {};
  EXPECT_EQ(outcome_of(unevaluated, run_of("store-all")).digest,
            outcome_of(dropout_task(), run_of("store-all")).digest);
}

TEST(Resume, ALastCheckpointThatCannotBeWrittenIsToldToTheProgram) {
  const testing::TemporaryFolder folder;
  Options options = run_of("store-all", 1);
  options.checkpoints.folder = folder / "run";
  Trainer trainer(dropout_task(), options, choose_memory(dropout_task(), options));
  std::string warnings;
  {
    const testing::FileLimit limit(1000);
    ::testing::internal::CaptureStderr();
    trainer.run();
    warnings = ::testing::internal::GetCapturedStderr();
  }
  EXPECT_FALSE(trainer.kept());
  const std::string last = warnings.substr(warnings.rfind("cannot write"));
  EXPECT_EQ(last.find("the run goes on"), std::string::npos) << warnings;
}

TEST(Resume, ARunThatHasDoneMoreStepsThanItIsToHaveIsRefused) {
  const testing::TemporaryFolder folder;
  Task task = dropout_task();
  task.schedule = [](std::int64_t) { return nn::Schedule::constant(0.1); };
  Options options = run_of("store-all", 2);
  options.checkpoints.folder = folder / "run";
  outcome_of(task, options);
  options.checkpoints = {};
  options.resume = folder / "run";
  options.max_steps = 2;
  EXPECT_THROW(outcome_of(task, options), ResumeError);
}

}  // namespace
}  // namespace palimpsest::train
