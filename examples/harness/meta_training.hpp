#pragma once

#include <memory>
#include <optional>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/datasets/feed.hpp>
#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/nn/layers.hpp>
#include "examples/harness/image_data.hpp"
#include "examples/harness/training_step.hpp"

namespace palimpsest::harness {

/// Makes the model that the flags describe, for images of this data set.
using MakeModel = std::function<std::unique_ptr<nn::Classifier>(const DataFacts& data, nn::Init init)>;

/// The memory that a feed holds beside the batch that is being worked on: the loader's ring if that is the device, else
/// batches on their way.
class MetaFeed {
 public:
  MetaFeed(const DataFacts& data, std::int64_t batch_size, const TrainingDefaults& defaults, Device meta);

 private:
  Buffer ring_;
  std::optional<datasets::FeedMemory> memory_;
};

/// A training run on the meta device that stands for `device`: the same model, optimiser and feed, but no data and no
/// arithmetic. Its memory is that of the run, to the byte.
class MetaTraining {
 public:
  /// Throws what making the model and the optimiser throws.
  MetaTraining(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults, Device device);

  nn::Classifier& model() { return *model_; }
  /// A training step with a whole batch.
  void step();
  /// An evaluation of a batch between two steps.
  void evaluate();
  /// step() under a policy for the whole model, or, where it is null, under those that the model has. Runs the first
  /// step of all now if there was none: it is unlike the others, since the optimiser's state does not exist yet.
  memory::Rehearsal rehearsal();

 private:
  Device meta_;
  VerifyScope verify_;
  const DataFacts& data_;
  const TrainingDefaults& defaults_;
  std::int64_t batch_size_;
  std::int64_t test_batch_size_;
  std::unique_ptr<nn::Classifier> model_;
  nn::Sgd sgd_;
  MetaFeed feed_;
  bool begun_ = false;
};

}  // namespace palimpsest::harness
