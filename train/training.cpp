#include <palimpsest/train/training.hpp>

#include <algorithm>
#include <cmath>

#include <palimpsest/datasets/image_source.hpp>
#include <palimpsest/ops/add.hpp>
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

/// The task's model, without gradients for what is frozen.
std::unique_ptr<nn::Module> make_model(const Task& task, nn::Init init) {
  std::unique_ptr<nn::Module> model = made(task.make_model(std::move(init)), task, "make_model");
  model->freeze(task.frozen, task.freeze_statistics);
  return model;
}

std::vector<nn::NamedTensor> trained(const nn::Module& model, const Task& task) {
  std::vector<nn::NamedTensor> parameters = model.parameters();
  std::erase_if(parameters, [](const nn::NamedTensor& each) { return !each.tensor.requires_grad_on(); });
  if (parameters.empty()) throw ValueError(concat_text("all parameters of ", task.name, " are frozen"));
  return parameters;
}

nn::GradientOptions without_clipping(const nn::GradientOptions& options) {
  return {.check_finite = options.check_finite};
}

/// The buffers and random counters of a model at the start of a step, which come back if it fails: those of a part are
/// final once it has been differentiated.
class StateAtStart {
 public:
  StateAtStart(const nn::Module& model, Generator& generator)
      : buffers_(model.buffers()), generator_(generator), offset_(generator.offset) {
    for (const nn::NamedTensor& buffer : buffers_) {
      const Tensor& now = buffer.tensor;
      copies_.push_back(Tensor::empty(now.shape(), now.dtype(), now.device(), Tag::Workspace));
      if (!is_meta(now.device())) copies_.back().assign(now);
    }
  }

  void restore() {
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      if (!is_meta(copies_[i].device())) buffers_[i].tensor.assign(copies_[i]);
    }
    generator_.offset = offset_;
  }

 private:
  std::vector<nn::NamedTensor> buffers_;
  std::vector<Tensor> copies_;
  Generator& generator_;
  std::uint64_t offset_;
};

/// The number of labels that are some, which is not known on a meta device.
std::int64_t labelled(const Tensor& labels) {
  const std::int64_t all = labels.shape().count();
  if (is_meta(labels.device())) return all;
  const std::vector<std::int32_t> values = labels.to_vector<std::int32_t>();
  return all - std::count(values.begin(), values.end(), datasets::no_label);
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
      model_(make_model(task_, std::move(init))),
      optimiser_(made(task_.make_optimiser(trained(*model_, task_)), task_, "make_optimiser")),
      guard_(trained(*model_, task_), task_.gradients),
      part_guard_(trained(*model_, task_), without_clipping(task_.gradients)) {
  optimiser_->set_check_finite(false);  // the guard has looked
}

Tensor Training::step(std::span<const Tensor> batch, const BeforeBackward& before_backward,
                      const std::function<void()>& again) {
  optimiser_->zero_grad();
  Tensor loss = differentiate({{batch.begin(), batch.end()}}, guard_, before_backward, again);
  optimiser_->step();
  return loss;
}

void Training::step(std::int64_t parts, const std::function<Part()>& part, const BeforeBackward& before_backward,
                    const std::function<void()>& again) {
  if (parts == 1) {
    step(part().batch, before_backward, again);
    return;
  }
  StateAtStart state(*model_, *generator_);
  optimiser_->zero_grad();
  try {
    for (std::int64_t i = 0; i < parts; ++i) differentiate(part(), part_guard_, before_backward, nullptr);
    clip();
  } catch (...) {
    state.restore();
    optimiser_->zero_grad();
    throw;
  }
  optimiser_->step();
}

void Training::clip() const {
  const std::vector<nn::NamedTensor> parameters = model_->parameters();
  if (task_.gradients.clip_value > 0) nn::clip_gradient_value(parameters, task_.gradients.clip_value);
  if (task_.gradients.clip_norm > 0) nn::clip_gradient_norm(parameters, task_.gradients.clip_norm);
}

/// Adds the gradients of a batch's part of the step's loss. Returns the batch's own.
Tensor Training::differentiate(const Part& part, const nn::GradientGuard& guard, const BeforeBackward& before_backward,
                               const std::function<void()>& again) {
  // The blocks know, after the first attempt, which streams have left the range: the second finds no others, unless the
  // first was ended by a reading in the midst of it.
  constexpr int most_attempts = 3;
  for (int attempt = 1;; ++attempt) {
    try {
      return try_to_differentiate(part, guard, before_backward);
    } catch (const RangeError&) {
      if (device_ != Device::Cuda || attempt == most_attempts) throw;
      if (again) again();
    }
  }
}

Tensor Training::try_to_differentiate(const Part& part, const nn::GradientGuard& guard,
                                      const BeforeBackward& before_backward) {
  Tensor loss = this->loss(part.batch);
  if (!checked_) model_->check_registered({&loss, 1}, part.batch);
  checked_ = true;
  if (before_backward) {
    const BlockScope step(nullptr, {&loss, 1});  // an exception fails the step, whoever holds its loss
    before_backward(loss);
  }
  (part.share == 1 ? loss : ops::scale(loss, part.share)).backward(guard);
  return loss;
}

double Training::checked_step(std::int64_t parts, const std::function<Part()>& part,
                              const std::function<void()>& again) {
  double mean = 0;
  std::size_t kept = 0;
  double share = 0;
  double value = 0;
  const auto end_part = [&] {
    mean += share * value;
    kept += kept_streams_;
    kept_streams_ = 0;
  };
  kept_streams_ = 0;
  const auto next = [&] {
    end_part();
    Part made = part();
    share = made.share;
    return made;
  };
  const auto check = [&](const Tensor& loss) {  // may see a loss again
    value = loss.item();
    kept_streams_ = unsolvable_couplings(loss);
    if (task_.gradients.check_finite && !std::isfinite(value)) throw NonFiniteError(concat_text("the loss is ", value));
  };
  step(parts, next, check, again);
  end_part();
  kept_streams_ = kept;
  return mean;
}

Score Training::evaluate(std::span<const Tensor> batch, const TakeScores& take) {
  const NoGrad no_grad;
  const EvaluationMode mode(*model_);
  if (task_.class_scores == nullptr) return task_.score(*model_, batch);
  if (batch.size() < 2) throw ValueError(concat_text("a batch of ", task_.name, " has no labels for class_scores"));
  const Tensor scores = task_.class_scores(*model_, batch);
  if (take) take(scores, batch[1]);
  return {static_cast<double>(ops::count_correct(scores, batch[1], {.ignored = datasets::no_label})),
          labelled(batch[1])};
}

}  // namespace palimpsest::train
