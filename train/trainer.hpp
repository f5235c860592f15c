#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/memory/planner/step_trace.hpp>
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
  /// Makes the model, gives it its policies and, for a budget, limits the device's memory to it while the trainer
  /// lives. Throws OutOfMemory, ValueError, and what opening the data throws.
  Trainer(Task task, Options options, const MemoryChoice& memory);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains until the run is over or a signal asks for its end (see InterruptGuard); calls `after_epoch` after every
  /// epoch. Throws DivergedError and RangeError, saying in which step, EvaluationOutOfMemory, and what the library
  /// throws.
  void run(const std::function<void()>& after_epoch = [] {});

  /// Step `step` of the run, from 0, will be recorded and handed over when it is done. Without this call nothing is.
  void watch(std::int64_t step, std::function<void(const memory::StepTrace&)> take) {
    watched_step_ = step;
    take_ = std::move(take);
  }

  /// A line on standard error that begins with the program's name.
  void warn(const std::string& what);

  nn::Module& model() { return training_.model(); }
  const nn::Module& model() const { return training_.model(); }
  const RunRecord& record() const { return record_; }
  /// The peak of the device's memory over the training steps.
  MemoryPeak peak() const { return meter_.peak(); }
  /// The same over the evaluations.
  MemoryPeak evaluation_peak() const { return evaluation_peak_; }

 private:
  /// While it lives, a device's memory has a limit; 0 changes nothing.
  class LimitScope {
   public:
    LimitScope(Device device, std::size_t limit);
    ~LimitScope();
    LimitScope(const LimitScope&) = delete;
    LimitScope& operator=(const LimitScope&) = delete;

   private:
    Device device_;
    std::size_t before_;
  };

  Task task_;
  Options options_;
  RunLength length_;
  Progress progress_;
  Training training_;
  LimitScope limit_;
  std::optional<nn::Schedule> schedule_;
  std::unique_ptr<Batches> batches_;
  PeakMeter meter_;
  MemoryPeak evaluation_peak_;
  VerifyScope verify_;  // of the thread that makes the trainer, as long as that lives
  RunRecord record_;
  std::int64_t watched_step_ = -1;
  std::function<void(const memory::StepTrace&)> take_;

  void train_epoch(std::int64_t epoch);
  bool step();
  double learn(std::span<const Tensor> batch);
  bool time_to_evaluate(std::int64_t epoch) const;
  void evaluate();
  std::optional<Score> score();
};

/// The step of a run to look at, from 0: the first with a whole batch after the very first step, which differs from all
/// others; the very first if there is no such step.
std::int64_t step_to_watch(const RunLength& length, std::int64_t samples);

}  // namespace palimpsest::train
