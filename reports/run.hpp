#pragma once

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include <palimpsest/reports/run_report.hpp>
#include <palimpsest/reports/step_pictures.hpp>
#include <palimpsest/storage/weights.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/trainer.hpp>

namespace palimpsest::reports {

/// Finds out before anything takes long what a run could fail of at its end: a table of rates that cannot be read, a
/// folder or a file that cannot be written, weights that cannot be read. Throws DataError, OffloadError, Error,
/// ValueError.
void check(const train::Options& options, const Files& files);

/// A run of a task with everything that belongs to it:
///
///     reports::Run run(task, {.memory = "budget=60MiB", .batch_size = 16}, {.page = "page.html"});
///     std::cout << run.announcement();
///     run.train(std::cout);
///
/// The constructor chooses the policies and rehearses the run; train() trains with progress, evaluation and clean
/// interruption, and writes the files.
class Run {
 public:
  /// Throws as check(); ValueError for options that cannot be kept to; OutOfMemory, with advice, where the device,
  /// or its allocator's limit, has less left beside what is in use than the forecast.
  Run(train::Task task, train::Options options, Files files = {});
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  const train::MemoryChoice& memory() const { return memory_; }
  const train::Forecast& forecast() const { return forecast_; }
  /// "UNet under budget=60MiB will need 59.1 MiB at its peak" and the recipes of a plan, in lines. One more says so if
  /// that is more than under `store-all`, and which policy is the thriftiest; the last, which weights come from a file.
  std::string announcement() const;

  /// Trains a new model, with a line for every epoch, prints the summary and writes the report, which has `fields` at
  /// its end. Returns false if it was interrupted (record().interrupted) or a picture of a step or a part of the log
  /// could not be written, of which there was a warning; the run goes on then. Throws what training throws; an
  /// OutOfMemory has advice at its end.
  bool train(std::ostream& out, std::vector<Field> fields = {});
  /// The model and the optimiser of the last train(), also of one that was interrupted or ended in an error; they live
  /// as long as this or until the next. Throws StateError before the first.
  nn::Module& model() { return trainer().model(); }
  nn::Optimiser& optimiser() { return trainer().optimiser(); }
  /// The record of the last train(). Throws StateError before the first.
  const train::RunRecord& record() { return trainer().record(); }

 private:
  train::Task task_;
  train::Options options_;
  Files files_;
  train::MemoryChoice memory_;
  train::Forecast forecast_;
  std::optional<storage::LoadReport> weights_;
  std::optional<train::Trainer> trainer_;
  bool pictures_failed_ = false;

  void check_device() const;
  train::Trainer& trainer();
  bool train_and_report(std::ostream& out, const std::vector<Field>& fields);
  PageFacts page_facts() const;
  void watch(PageFacts& facts, const StepPictures& pictures);
};

}  // namespace palimpsest::reports
