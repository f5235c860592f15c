// Runs that are kept while they go on, and taken up again: to the bit, or not at all.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/datasets/synthetic.hpp>
#include <palimpsest/storage/weights.hpp>
#include <palimpsest/train/checkpoint_reader.hpp>
#include <palimpsest/train/checkpoints.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/trainer.hpp>
#include "tests/train/small_tasks.hpp"

namespace palimpsest::train {
namespace {

namespace fs = std::filesystem;

/// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "palimpsest-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

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

TEST(Checkpoint, ResumesToTheBitAfterEveryStepUnderEveryPolicy) {
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
      const Folder folder;
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

TEST(Checkpoint, TakesNothingOfTheMemoryThatWasForeseen) {
  const Folder folder;
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

TEST(Checkpoint, OtherSettingsAreOneError) {
  const Folder folder;
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

TEST(Checkpoint, AnotherModelLeavesEverythingAsItWas) {
  const Folder folder;
  nn::Init init(1);
  nn::Linear small(init, 3, 2);
  nn::Linear large(init, 3, 4);
  nn::Sgd small_sgd(small.parameters(), {});
  nn::Sgd large_sgd(large.parameters(), {});
  stage_checkpoint(folder / "checkpoint-00000005.safetensors", {small, small_sgd}, 5).commit();
  const std::string before = large.state_digest();
  EXPECT_THROW(read_checkpoint(folder / "checkpoint-00000005.safetensors", {large, large_sgd}), DataError);
  EXPECT_EQ(large.state_digest(), before);
  EXPECT_TRUE(large_sgd.state().empty());
}

/// A file of so many bytes whose byte at `place` has one bit turned over.
void damage(const std::string& file, std::uint64_t place) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(static_cast<std::streamoff>(place));
  const auto byte = static_cast<char>(stream.get() ^ 0x10);
  stream.seekp(static_cast<std::streamoff>(place));
  stream.put(byte);
}

TEST(Checkpoint, ABitThatIsTurnedOverInAnyPartIsNamed) {
  const Folder folder;
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

TEST(Checkpoint, TheNewestThatIsWholeIsTaken) {
  const Outcome undisturbed = outcome_of(dropout_task(), run_of("store-all"));
  const Folder folder;
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

TEST(Checkpoint, TheLastAndTheBestAreKept) {
  for (const bool smaller_is_better : {false, true}) {
    const Folder folder;
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

TEST(Checkpoint, AFolderIsOneRunsAtATime) {
  const Folder folder;
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

TEST(Checkpoint, AFolderThatCannotBeWrittenIsAnErrorBeforeTheFirstStep) {
  const Folder folder;
  std::ofstream(folder / "file") << "text";
  EXPECT_THROW(Checkpoints({.folder = folder / "file"}), Error);
  EXPECT_THROW(Checkpoints({.folder = folder / "file/run"}), Error);
  EXPECT_THROW(Checkpoints({.folder = folder / "run", .keep = 0}), ValueError);
  EXPECT_THROW(Checkpoints({.folder = folder / "run", .every = "soon"}), ValueError);
}

/// No file may grow beyond so many bytes while it lives.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(Checkpoint, ADiskThatIsFullOrAFolderThatHasGoneDoesNotEndTheRun) {
  const Outcome undisturbed = outcome_of(dropout_task(), run_of("store-all", 2));
  const Folder folder;
  Options options = run_of("store-all", 2);
  options.checkpoints = {.folder = folder / "run", .every = "1steps", .keep = 9};
  Task task = dropout_task();
  std::optional<FileLimit> limit;
  std::vector<std::size_t> seen;
  const auto loss = task.loss;
  int steps = 0;
  task.loss = [&, loss](nn::Module& model, test::Batch batch) {
    if (!is_meta(batch[0].device())) {
      seen.push_back(checkpoints_in(folder / "run").size());
      if (++steps == 3) limit.emplace(1000);
      if (steps == 5) limit.reset();
      if (steps == 6) fs::remove_all(folder / "run");
    }
    return loss(model, batch);
  };
  testing::internal::CaptureStderr();
  const Outcome outcome = outcome_of(task, options);
  const std::string warnings = testing::internal::GetCapturedStderr();
  EXPECT_EQ(outcome, undisturbed);
  EXPECT_NE(warnings.find("the run goes on, and is kept in"), std::string::npos) << warnings;
  EXPECT_NE(warnings.find("checkpoint-00000003.safetensors"), std::string::npos) << warnings;
  EXPECT_LE(seen[4], 2U) << "nothing was added while there was no room";
  EXPECT_EQ(checkpoints_in(folder / "run").size(), 1U) << "the folder is made again";
}

TEST(Checkpoint, ADivergedRunNamesItsLastCheckpoint) {
  const Folder folder;
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

TEST(Checkpoint, AnEvaluationThatWasOutstandingIsMadeUpFor) {
  const Outcome undisturbed = outcome_of(dropout_task(), run_of("store-all"));
  const Folder folder;
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

TEST(Checkpoint, EvaluationsLeaveNoTraceInARun) {
  Task unevaluated = dropout_task();
  unevaluated.evaluation = {};
  EXPECT_EQ(outcome_of(unevaluated, run_of("store-all")).digest,
            outcome_of(dropout_task(), run_of("store-all")).digest);
}

/// A small model with its optimiser.
struct Small {
  nn::Init init{1};
  nn::Linear model{init, 3, 2};
  nn::Sgd sgd{model.parameters(), {}};
  RunState state{model, sgd};
};

/// Writes a checkpoint of it after so many steps.
void write_small(const std::string& file, std::int64_t steps, storage::Metadata metadata = {}) {
  const Small small;
  std::vector<storage::TensorToStore> tensors = storage::tensors_to_store(storage::state_of(small.model));
  tensors.push_back({"random/counters", storage::ElementType::I64, {0}, [](const storage::PutBytes&) {}});
  metadata.emplace("checkpoint_version", "1");
  metadata.emplace("steps", std::to_string(steps));
  storage::write_safetensors(file, std::move(tensors), metadata);
}

TEST(Checkpoint, AFileOfALaterVersionIsLeftAlone) {
  const Folder folder;
  const Small small;
  Checkpoints checkpoints({.folder = folder / "run"});
  const std::string file = folder / "run/checkpoint-00000007.safetensors";
  write_small(file, 7, {{"checkpoint_version", "2"}});
  EXPECT_THROW(checkpoints.resume(small.state), LaterVersion);
  EXPECT_TRUE(fs::exists(file));
}

TEST(Checkpoint, AFileThatIsOfAnotherStepThanItsNameIsDamaged) {
  const Folder folder;
  const Small small;
  Checkpoints checkpoints({.folder = folder / "run"});
  write_small(folder / "run/checkpoint-00000004.safetensors", 4);
  write_small(folder / "run/checkpoint-00000999.safetensors", 3);
  std::vector<std::string> warnings;
  checkpoints.set_warn([&](const std::string& what) { warnings.push_back(what); });
  EXPECT_EQ(checkpoints.resume(small.state), 4);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("after 3 steps, expected 999"), std::string::npos) << warnings[0];
  EXPECT_THROW(checkpoints.save(small.state, 3), StateError) << "the state is of more steps";
}

/// An optimiser with a state of its own from the beginning.
class Adagrad : public nn::Optimiser {
 public:
  explicit Adagrad(std::string name) : name_(std::move(name)) {}
  void zero_grad() override {}
  void step() override {}
  double learning_rate() const override { return 0; }
  void set_learning_rate(double) override {}
  std::vector<nn::NamedTensor> state() const override { return {{name_, sum_}}; }

 private:
  std::string name_;
  Tensor sum_ = Tensor::from_vector<float>({2}, {5, 6});
};

TEST(Checkpoint, AnotherOptimiserLeavesEverythingAsItWas) {
  const Folder folder;
  Small small;
  Adagrad sum("sum");
  Adagrad other("other");
  const std::string file = folder / "checkpoint-00000001.safetensors";
  stage_checkpoint(file, {small.model, sum}, 1).commit();
  EXPECT_THROW(read_checkpoint(file, {small.model, other}), DataError);
  EXPECT_EQ(other.state()[0].tensor.to_vector<float>()[0], 5);
  EXPECT_THROW(read_checkpoint(file, small.state), DataError) << "descent has no such state";
  EXPECT_EQ(read_checkpoint(file, {small.model, sum}), 1);
}

TEST(Checkpoint, AFolderThatIsMadeAgainIsStillOneRuns) {
  const Folder folder;
  const Small small;
  Checkpoints checkpoints({.folder = folder / "run"});
  fs::remove_all(folder / "run");
  EXPECT_TRUE(checkpoints.save(small.state, 1));
  EXPECT_THROW(Checkpoints({.folder = folder / "run"}), StateError);
}

TEST(Checkpoint, ALastCheckpointThatCannotBeWrittenIsToldToTheProgram) {
  const Folder folder;
  Options options = run_of("store-all", 1);
  options.checkpoints.folder = folder / "run";
  Trainer trainer(dropout_task(), options, choose_memory(dropout_task(), options));
  std::string warnings;
  {
    const FileLimit limit(1000);
    testing::internal::CaptureStderr();
    trainer.run();
    warnings = testing::internal::GetCapturedStderr();
  }
  EXPECT_FALSE(trainer.kept());
  const std::string last = warnings.substr(warnings.rfind("cannot write"));
  EXPECT_EQ(last.find("the run goes on"), std::string::npos) << warnings;
}

TEST(Checkpoint, ARunThatHasDoneMoreStepsThanItIsToHaveIsRefused) {
  const Folder folder;
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

TEST(Checkpoint, ALoopByHandGoesOnWhereItWas) {
  const Folder folder;
  const auto train_until = [&](std::int64_t end, const std::string& kept) {
    nn::Init init(1);
    nn::Linear model(init, 3, 1);
    nn::Dropout dropout(init, 0.5);
    nn::Sgd sgd(model.parameters(), {});
    Checkpoints checkpoints({.folder = kept, .every = "2steps"});
    const RunState state{model, sgd, {init.dropout_generator()}};
    for (std::int64_t step = checkpoints.resume(state); step < end; ++step) {
      sgd.zero_grad();
      const Tensor x = Tensor::from_vector<float>({2, 3}, {1, 2, 3, 4, 5, static_cast<float>(step)});
      weighted_sum(model(dropout(x)), Tensor::from_vector<float>({2, 1}, {1, 2})).backward();
      sgd.step();
      checkpoints.after_step(state, step + 1);
    }
    return model.state_digest();
  };
  const std::string undisturbed = train_until(9, "");
  train_until(5, folder / "run");  // the fifth step is lost
  EXPECT_EQ(train_until(9, folder / "run"), undisturbed);
}

TEST(Checkpoint, IntervalsAreReadOrRefused) {
  using Unit = CheckpointInterval::Unit;
  const auto is = [](const std::string& text, std::int64_t count, Unit unit) {
    const CheckpointInterval interval = parse_interval(text);
    EXPECT_EQ(interval.count, count) << text;
    EXPECT_EQ(interval.unit, unit) << text;
  };
  is("500steps", 500, Unit::Steps);
  is("1step", 1, Unit::Steps);
  is("90s", 90, Unit::Seconds);
  is("10min", 600, Unit::Seconds);
  is("2h", 7200, Unit::Seconds);
  is("3epochs", 3, Unit::Epochs);
  for (const char* const text :
       {"", "10", "min", "0steps", "-1s", "1.5h", "10 min", "10mins", "9999999999s", "3000000h"}) {
    EXPECT_THROW(parse_interval(text), ValueError) << text;
  }
}

}  // namespace
}  // namespace palimpsest::train
