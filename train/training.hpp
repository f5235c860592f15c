#pragma once

#include <memory>
#include <span>

#include <palimpsest/core/error.hpp>
#include <palimpsest/train/task.hpp>

namespace palimpsest::train {

/// The loss is infinite or no number.
class DivergedError : public Error {
 public:
  using Error::Error;
};

/// The model and the optimiser of a task, on a device or on meta: every training step of the library goes through here.
class Training {
 public:
  /// `task` must outlive it. Throws what making the two throws.
  Training(const Task& task, nn::Init init);

  nn::Module& model() { return *model_; }
  const nn::Module& model() const { return *model_; }
  nn::Optimiser& optimiser() { return *optimiser_; }

  /// Forward, loss, backward, update. Returns the loss; 0 on meta, where there are no numbers. Throws DivergedError,
  /// before any parameter has changed, for a loss that is infinite or no number, and what the library throws.
  double step(std::span<const Tensor> batch);
  /// The score of a batch in evaluation mode, without gradients. Leaves the model in training mode.
  Score evaluate(std::span<const Tensor> batch);

 private:
  const Task& task_;
  std::unique_ptr<nn::Module> model_;
  std::unique_ptr<nn::Optimiser> optimiser_;
};

}  // namespace palimpsest::train
