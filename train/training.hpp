#pragma once

#include <functional>
#include <memory>
#include <span>

#include <palimpsest/train/task.hpp>

namespace palimpsest::train {

/// Gets the scores of the classes, (N, classes), and the labels, (N), of a batch that was evaluated.
using TakeScores = std::function<void(const Tensor& scores, const Tensor& labels)>;

/// The model and the optimiser of a task, on a device or on meta: every training step of the library goes through here.
class Training {
 public:
  /// Throws ValueError for a task without one of its functions, and what making the two throws.
  Training(Task task, nn::Init init);

  nn::Module& model() { return *model_; }
  const nn::Module& model() const { return *model_; }
  nn::Optimiser& optimiser() { return *optimiser_; }
  /// The random counters that the model's dropout layers share.
  const std::shared_ptr<Generator>& generator() const { return generator_; }

  /// The loss of a batch.
  Tensor loss(std::span<const Tensor> batch) { return task_.loss(*model_, batch); }
  /// Forward, loss, backward, what Task::gradients asks for, update. Returns the loss, which `before_backward` sees
  /// first. An exception of any leaves parameters, buffers, random counters and the optimiser's state as they were. On
  /// CUDA a step in which a stream has left its grid's range is taken again, with that stream kept (ops::couple): the
  /// loss and `before_backward` are then called for the same batch once more, after `again`.
  /// Throws NonFiniteError, naming the first parameter whose gradient is infinite or no number.
  Tensor step(std::span<const Tensor> batch, const std::function<void(const Tensor& loss)>& before_backward = nullptr,
              const std::function<void()>& again = nullptr);
  /// A step whose loss is read. Throws NonFiniteError, too, if that is infinite or no number, unless
  /// Task::gradients.check_finite is off.
  double checked_step(std::span<const Tensor> batch, const std::function<void()>& again = nullptr);
  /// Streams of the last checked step that left the range in which they can be solved for, and were kept.
  std::size_t kept_streams() const { return kept_streams_; }
  /// The score of a batch in evaluation mode, without gradients; `take` sees the class_scores of a task that has them.
  /// Leaves the model in training mode.
  Score evaluate(std::span<const Tensor> batch, const TakeScores& take = nullptr);

 private:
  Tensor try_step(std::span<const Tensor> batch, const std::function<void(const Tensor& loss)>& before_backward);

  Task task_;
  Device device_;
  std::shared_ptr<Generator> generator_;
  std::unique_ptr<nn::Module> model_;
  std::unique_ptr<nn::Optimiser> optimiser_;
  std::size_t kept_streams_ = 0;
  nn::GradientGuard guard_;
  bool checked_ = false;  // the first step looks for parts that are not registered
};

}  // namespace palimpsest::train
