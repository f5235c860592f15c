#include <palimpsest/train/training.hpp>

#include <cmath>

#include <palimpsest/ops/cross_entropy.hpp>

namespace palimpsest::train {

namespace {

Task complete(Task task) {
  const auto require = [&](bool there, const char* part) {
    if (!there) throw ValueError(concat_text("the task ", task.name, " has no ", part));
  };
  require(task.make_model != nullptr, "make_model");
  require(task.loss != nullptr, "loss");
  require(task.make_optimiser != nullptr, "make_optimiser");
  const bool scored = task.score != nullptr || task.class_scores != nullptr;
  require(scored || task.evaluation.samples == 0, "score for its evaluation data");
  if (task.score != nullptr && task.class_scores != nullptr) {
    throw ValueError(concat_text("the task ", task.name, " has both a score and class_scores, expected one of them"));
  }
  return task;
}

/// The object that a function of the task has made.
template <class Made>
std::unique_ptr<Made> made(std::unique_ptr<Made> object, const Task& task, const char* function) {
  if (object == nullptr) throw ValueError(concat_text("the task ", task.name, "'s ", function, " has made nothing"));
  return object;
}

/// Puts a model back into training mode, whatever happens.
class EvaluationMode {
 public:
  explicit EvaluationMode(nn::Module& model) : model_(model) { model_.train(false); }
  ~EvaluationMode() { model_.train(true); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  nn::Module& model_;
};

}  // namespace

Training::Training(Task task, nn::Init init)
    : task_(complete(std::move(task))),
      device_(init.device()),
      generator_(init.dropout_generator()),
      model_(made(task_.make_model(std::move(init)), task_, "make_model")),
      optimiser_(made(task_.make_optimiser(model_->parameters()), task_, "make_optimiser")),
      guard_(model_->parameters(), task_.gradients) {
  optimiser_->set_check_finite(false);  // the guard has looked
}

Tensor Training::step(std::span<const Tensor> batch, const std::function<void(const Tensor& loss)>& before_backward,
                      const std::function<void()>& again) {
  // The blocks know, after the first attempt, which streams have left the range: the second finds no others, unless the
  // first was ended by a reading in the midst of it.
  constexpr int most_attempts = 3;
  for (int attempt = 1;; ++attempt) {
    try {
      return try_step(batch, before_backward);
    } catch (const RangeError&) {
      if (device_ != Device::Cuda || attempt == most_attempts) throw;
      if (again) again();
    }
  }
}

Tensor Training::try_step(std::span<const Tensor> batch,
                          const std::function<void(const Tensor& loss)>& before_backward) {
  optimiser_->zero_grad();
  Tensor loss = this->loss(batch);
  if (!checked_) model_->check_registered({&loss, 1}, batch);
  checked_ = true;
  if (before_backward) {
    const BlockScope step(nullptr, {&loss, 1});  // an exception fails the step, whoever holds its loss
    before_backward(loss);
  }
  loss.backward(guard_);
  optimiser_->step();
  return loss;
}

double Training::checked_step(std::span<const Tensor> batch, const std::function<void()>& again) {
  double value = 0;
  const auto check = [&](const Tensor& loss) {
    value = loss.item();
    kept_streams_ = unsolvable_couplings(loss);
    if (task_.gradients.check_finite && !std::isfinite(value)) throw NonFiniteError(concat_text("the loss is ", value));
  };
  step(batch, check, again);
  return value;
}

Score Training::evaluate(std::span<const Tensor> batch, const TakeScores& take) {
  const NoGrad no_grad;
  const EvaluationMode mode(*model_);
  if (task_.class_scores == nullptr) return task_.score(*model_, batch);
  if (batch.size() < 2) throw ValueError(concat_text("a batch of ", task_.name, " has no labels for class_scores"));
  const Tensor scores = task_.class_scores(*model_, batch);
  if (take) take(scores, batch[1]);
  return {static_cast<double>(ops::count_correct(scores, batch[1])), batch[1].shape().count()};
}

}  // namespace palimpsest::train
