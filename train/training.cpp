#include <palimpsest/train/training.hpp>

#include <cmath>

namespace palimpsest::train {

Training::Training(const Task& task, nn::Init init)
    : task_(task), model_(task.make_model(std::move(init))), optimiser_(task.make_optimiser(model_->parameters())) {}

double Training::step(std::span<const Tensor> batch) {
  optimiser_->zero_grad();
  const Tensor loss = task_.loss(*model_, batch);
  const double value = is_meta(loss.device()) ? 0.0 : loss.item();
  if (!std::isfinite(value)) throw DivergedError(concat_text("the loss is ", value));
  loss.backward();
  optimiser_->step();
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
