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
  /// Throws ValueError for a task without one of its functions, and what making the two throws.
  Training(Task task, nn::Init init);

  nn::Module& model() { return *model_; }
  const nn::Module& model() const { return *model_; }
  nn::Optimiser& optimiser() { return *optimiser_; }

  /// The loss of a batch.
  Tensor loss(std::span<const Tensor> batch) { return task_.loss(*model_, batch); }
  /// Forward, loss, backward, update. Returns the loss, which `before_backward` sees first. An exception of either
  /// leaves the parameters as they were.
  Tensor step(std::span<const Tensor> batch, const std::function<void(const Tensor& loss)>& before_backward = nullptr);
  /// A step whose loss is read. Throws DivergedError, before any parameter has changed, if it is infinite or no number.
  double checked_step(std::span<const Tensor> batch);
  /// Streams of the last checked step that left the range in which they can be solved for, and were kept.
  std::size_t kept_streams() const { return kept_streams_; }
  /// The score of a batch in evaluation mode, without gradients. Leaves the model in training mode.
  Score evaluate(std::span<const Tensor> batch);

 private:
  Task task_;
  std::unique_ptr<nn::Module> model_;
  std::unique_ptr<nn::Optimiser> optimiser_;
  std::size_t kept_streams_ = 0;
  bool checked_ = false;  // the first step looks for parts that are not registered
};

}  // namespace palimpsest::train
