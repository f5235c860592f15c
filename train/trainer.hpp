#pragma once

#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/core/whole_file.hpp>
#include <palimpsest/memory/planner/step_trace.hpp>
#include <palimpsest/train/checkpoints.hpp>
#include <palimpsest/train/memory_choice.hpp>
#include <palimpsest/train/peak_meter.hpp>
#include <palimpsest/train/progress.hpp>
#include <palimpsest/train/run_record.hpp>
#include <palimpsest/train/training.hpp>

namespace palimpsest::train {

/// There was not enough memory for an evaluation: training steps are not to blame.
class EvaluationOutOfMemory : public OutOfMemory {
 public:
  using OutOfMemory::OutOfMemory;
};

/// The loss or a gradient of a step is infinite or no number; see Task::gradients.
class DivergedError : public NonFiniteError {
 public:
  using NonFiniteError::NonFiniteError;
};

/// The training loop: epochs of steps, an evaluation between them, progress on the way.
class Trainer {
 public:
  /// Makes the model and gives it its policies. Peaks and limits count what comes on top of the bytes that the program
  /// has in use on the device already. Reads Options::weights, and finds out whether Options::save_weights can be
  /// written. A run that Options::resume names is taken up. Throws OutOfMemory, ValueError, DeviceError for a meta
  /// device, DataError where there is nothing to resume, ResumeError for a folder that has another run's checkpoints,
  /// and what opening the data, load_weights(), Checkpoints and resuming throw.
  Trainer(Task task, Options options, const MemoryChoice& memory);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains until the run is over or a signal asks for its end (see InterruptGuard); after every epoch writes a line to
  /// `out`, unless quiet, and calls `after_epoch`. The run is kept as Options::checkpoints says, and at its end, when
  /// the weights that Options asks for are written. For a budget the device's memory is limited to it meanwhile, and
  /// to the bytes of streams that had to be kept (KeptStreamsOutOfMemory) on top of it, where a step without that room
  /// is undone and taken again, for which the task's loss is called once more. Throws DivergedError and RangeError,
  /// saying in which step, EvaluationOutOfMemory, DataError where the data end before their number of samples or
  /// none could be read, ValueError for data that cannot be opened and for a score that counts nothing, and what the
  /// library throws.
  void run(
      const std::function<void()>& after_epoch = [] {}, std::ostream& out = std::cout);

  /// Evaluates the model as it is: the score of all evaluation data, which the record then has; none, and
  /// record().interrupted, if a signal has asked for the end. `take` sees the class_scores of a task that has them.
  /// Throws as run().
  std::optional<Score> evaluate(const TakeScores& take = nullptr);

  /// Step `step` of the run, from 0, will be recorded and handed over when it is done; of a step that had to be taken
  /// again, what stands. Without this call nothing is.
  void watch(std::int64_t step, std::function<void(const memory::StepTrace&)> take) {
    watched_step_ = step;
    take_ = std::move(take);
  }

  /// `stepped` will be called after every step, `evaluated` after every evaluation. An exception of
  /// theirs ends the run.
  void listen(std::function<void(const StepResult&)> stepped, std::function<void(const Evaluation&)> evaluated) {
    stepped_ = std::move(stepped);
    evaluated_ = std::move(evaluated);
  }

  /// A line on standard error that begins with the program's name.
  void warn(const std::string& what);

  nn::Module& model() { return training_.model(); }
  const nn::Module& model() const { return training_.model(); }
  nn::Optimiser& optimiser() { return training_.optimiser(); }
  const RunRecord& record() const { return record_; }
  /// The checkpoint that this run has gone on from; empty for none.
  const std::string& resumed_from() const { return resumed_from_; }
  /// The newest checkpoint that the disk is known to have; empty for none.
  const std::string& last_checkpoint() const { return checkpoints_.last_known(); }
  /// False if the last checkpoint of the run could not be written, of which there was a warning.
  bool kept() const { return kept_; }
  /// The peak of the device's memory over the training steps.
  MemoryPeak peak() const { return meter_.peak(); }
  /// The same over the evaluations.
  MemoryPeak evaluation_peak() const { return evaluation_peak_; }
  /// The samples that the last evaluation has counted, without those that could not be read; none before the first.
  std::optional<std::int64_t> evaluated_samples() const { return evaluated_samples_; }
  /// The share of its training steps' time in which this has waited for data; none before the first.
  std::optional<double> data_share() const {
    return trained_.count() > 0 ? std::optional(waited_ / trained_) : std::nullopt;
  }

 private:
  class LimitScope;

  Task task_;
  Options options_;
  RunLength length_;
  std::size_t budget_;
  std::size_t room_ = 0;  // beyond the budget, for kept streams
  Progress progress_;
  MemoryStats before_;  // what the program has in use
  Training training_;
  std::optional<nn::Schedule> schedule_;
  std::unique_ptr<Batches> batches_;
  WholeFile weights_;  // at the end
  PeakMeter meter_;
  std::chrono::duration<double, std::milli> waited_{};
  std::chrono::duration<double, std::milli> trained_{};
  MemoryPeak evaluation_peak_;
  std::optional<std::int64_t> evaluated_samples_;
  RunRecord record_;
  Checkpoints checkpoints_;
  RunState state_;
  std::string resumed_from_;
  bool kept_ = true;
  std::int64_t watched_step_ = -1;
  std::function<void(const memory::StepTrace&)> take_;
  std::function<void(const StepResult&)> stepped_;
  std::function<void(const Evaluation&)> evaluated_;

  void resume();
  std::vector<Setting> settings() const;
  std::int64_t first_epoch() const;
  std::int64_t steps_before(std::int64_t epoch) const {
    return std::min(length_.steps, epoch * length_.steps_per_epoch);
  }
  void train_epoch(std::int64_t epoch, LimitScope& limit);
  void step(std::int64_t left, LimitScope& limit);
  Part next_part(std::int64_t samples, std::int64_t& served);
  std::int64_t steps_done() const { return static_cast<std::int64_t>(record_.steps.size()); }
  void tell_kept_streams();
  /// `again` is called before the step is taken once more.
  double learn_in_budget(std::int64_t samples, LimitScope& limit, const std::function<void()>& again);
  double learn(std::int64_t samples, const std::function<void()>& again);
  std::string kept_in();
  bool time_to_evaluate(std::int64_t epoch) const;
  std::optional<Score> score(const TakeScores& take);
};

/// The step of a run to look at, from 0: the first with a whole batch behind step `first`, which differs from all
/// others; that one if there is no such step.
std::int64_t step_to_watch(const RunLength& length, std::int64_t samples, std::int64_t first = 0);

}  // namespace palimpsest::train
