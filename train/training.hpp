#pragma once

#include <functional>
#include <memory>
#include <span>

#include <palimpsest/train/task.hpp>

namespace palimpsest::train {

/// One of the batches that a step adds up the gradients of.
struct Part {
  std::vector<Tensor> batch;
  double share = 1;  ///< of the step's samples
};

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
  /// The same over `parts` batches, which `part` hands out one after the other, with the gradients of the mean over all
  /// samples: their shares add up to 1. No more than one of them is alive at a time. `again` is called for a step of
  /// one part alone.
  void step(std::int64_t parts, const std::function<Part()>& part,
            const std::function<void(const Tensor& loss)>& before_backward = nullptr,
            const std::function<void()>& again = nullptr);
  /// A step whose loss, the mean over its samples, is read. Throws NonFiniteError, too, if that is infinite or no
  /// number, unless Task::gradients.check_finite is off.
  double checked_step(std::int64_t parts, const std::function<Part()>& part,
                      const std::function<void()>& again = nullptr);
  double checked_step(std::span<const Tensor> batch, const std::function<void()>& again = nullptr) {
    return checked_step(
        1,
        [&] {
          return Part{{batch.begin(), batch.end()}};
        },
        again);
  }
  /// Streams of the last checked step that left the range in which they can be solved for, and were kept.
  std::size_t kept_streams() const { return kept_streams_; }
  /// The score of a batch in evaluation mode, without gradients; `take` sees the class_scores of a task that has them.
  /// Leaves the model in training mode.
  Score evaluate(std::span<const Tensor> batch, const TakeScores& take = nullptr);

 private:
  using BeforeBackward = std::function<void(const Tensor& loss)>;

  Tensor differentiate(const Part& part, const nn::GradientGuard& guard, const BeforeBackward& before_backward,
                       const std::function<void()>& again);
  Tensor try_to_differentiate(const Part& part, const nn::GradientGuard& guard, const BeforeBackward& before_backward);
  void clip() const;

  Task task_;
  Device device_;
  std::shared_ptr<Generator> generator_;
  std::unique_ptr<nn::Module> model_;
  std::unique_ptr<nn::Optimiser> optimiser_;
  std::size_t kept_streams_ = 0;
  nn::GradientGuard guard_;
  nn::GradientGuard part_guard_;  // of gradients that others will be added to: clips nothing
  bool checked_ = false;          // the first step looks for parts that are not registered
};

}  // namespace palimpsest::train
