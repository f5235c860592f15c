#include <palimpsest/train/training.hpp>

#include <cmath>

namespace palimpsest::train {

Training::Training(Task task, nn::Init init)
    : task_(std::move(task)),
      model_(task_.make_model(std::move(init))),
      optimiser_(task_.make_optimiser(model_->parameters())) {}

Tensor Training::step(std::span<const Tensor> batch, const std::function<void(const Tensor& loss)>& before_backward) {
  optimiser_->zero_grad();
  Tensor loss = this->loss(batch);
  if (!checked_) model_->check_registered({&loss, 1}, batch);
  checked_ = true;
  if (before_backward) before_backward(loss);
  loss.backward();
  optimiser_->step();
  return loss;
}

double Training::checked_step(std::span<const Tensor> batch) {
  double value = 0;
  step(batch, [&](const Tensor& loss) {
    value = loss.item();
    if (!std::isfinite(value)) throw DivergedError(concat_text("the loss is ", value));
  });
  return value;
}

Score Training::evaluate(std::span<const Tensor> batch) {
  const NoGrad no_grad;
  model_->train(false);
  const Score score = task_.score(*model_, batch);
  model_->train(true);
  return score;
}

}  // namespace palimpsest::train
