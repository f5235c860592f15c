#pragma once

#include <functional>
#include <utility>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/memory/planner/step_trace.hpp>
#include "examples/harness/image_data.hpp"
#include "examples/harness/peak_meter.hpp"
#include "examples/harness/progress.hpp"
#include "examples/harness/run_record.hpp"
#include "examples/harness/training_step.hpp"

namespace palimpsest::harness {

/// There was not enough memory for an evaluation: training steps are not to blame.
class EvaluationOutOfMemory : public OutOfMemory {
 public:
  using OutOfMemory::OutOfMemory;
};

/// The training loop: epochs of steps, an evaluation between them.
class Trainer {
 public:
  /// All that is passed must outlive the trainer. Throws OutOfMemory, ValueError.
  Trainer(nn::Classifier& model, const ImageData& data, const Options& options, const TrainingDefaults& defaults,
          Device device);

  /// Trains until the run is over or a signal asks for its end (see InterruptGuard); calls `after_epoch` after every
  /// epoch. Throws DivergedError, saying in which step, RangeError likewise,
  /// EvaluationOutOfMemory, and what the library throws.
  void run(Progress& progress, const std::function<void()>& after_epoch);

  /// Step `step` of the run, from 0, will be recorded and handed over when it is done. Without this call nothing is.
  void watch(std::int64_t step, std::function<void(const memory::StepTrace&)> take) {
    watched_step_ = step;
    take_ = std::move(take);
  }

  const RunRecord& record() const { return record_; }
  /// The peak of the device's memory over the training steps.
  MemoryPeak peak() const { return meter_.peak(); }
  /// The same over the evaluations.
  MemoryPeak evaluation_peak() const { return evaluation_peak_; }

 private:
  nn::Classifier& model_;
  const ImageData& data_;
  const Options& options_;
  Device device_;
  RunLength length_;
  nn::Sgd sgd_;
  nn::Schedule schedule_;
  datasets::Feed feed_;
  PeakMeter meter_;
  MemoryPeak evaluation_peak_;
  VerifyScope verify_;  // of the thread that makes the trainer, as long as that lives
  RunRecord record_;
  std::int64_t watched_step_ = -1;
  std::function<void(const memory::StepTrace&)> take_;

  void train_epoch(std::int64_t epoch, Progress& progress);
  void step(const datasets::FedBatch& batch);
  void evaluate(Progress& progress);
  bool time_to_evaluate(std::int64_t epoch) const;
};

/// The fraction of the test images that the model classifies right, in evaluation mode; none if a signal asked for the
/// end of the run meanwhile. Leaves the model in training mode.
std::optional<double> test_accuracy(nn::Classifier& model, const datasets::ImageSet& test,
                                    const datasets::LoaderOptions& batches, Device device, Progress& progress);

}  // namespace palimpsest::harness
