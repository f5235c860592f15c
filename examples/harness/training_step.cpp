#include "examples/harness/training_step.hpp"

#include <algorithm>
#include <cmath>

#include <palimpsest/ops/cross_entropy.hpp>

namespace palimpsest::harness {

Samples take(const datasets::Feed& feed, const datasets::FedBatch& batch) {
  Samples samples = {Tensor::empty(batch.shape, Dtype::Float32, feed.device(), Tag::Data),
                     Tensor::empty({batch.size}, Dtype::Int32, feed.device(), Tag::Data)};
  feed.write(samples.images.view().as<float>(), samples.labels.view().as<std::int32_t>());
  return samples;
}

double train_step(nn::Classifier& model, nn::Sgd& sgd, const Samples& samples) {
  sgd.zero_grad();
  const Tensor loss = ops::cross_entropy(model(samples.images), samples.labels);
  const double value = is_meta(loss.device()) ? 0.0 : loss.item();
  if (!std::isfinite(value)) throw DivergedError(concat_text("the loss is ", value));
  loss.backward();
  sgd.step();
  return value;
}

nn::Sgd make_sgd(const nn::Classifier& model, const Options& options, const TrainingDefaults& defaults) {
  return nn::Sgd(model.parameters(), {.learning_rate = options.learning_rate,
                                      .momentum = options.momentum,
                                      .nesterov = defaults.nesterov && options.momentum > 0,
                                      .weight_decay = options.weight_decay,
                                      .decay_norm_and_bias = defaults.decay_norm_and_bias});
}

nn::Schedule make_schedule(const Options& options, std::int64_t steps) {
  const auto shape = [&] {
    if (options.schedule == "constant") return nn::Schedule::constant(options.learning_rate);
    if (options.schedule == "cosine") return nn::Schedule::cosine(options.learning_rate, steps);
    if (options.schedule == "step")
      return nn::Schedule::step(options.learning_rate,
                                {std::max<std::int64_t>(1, steps / 2), std::max<std::int64_t>(1, steps * 3 / 4)});
    throw ValueError(concat_text("unknown schedule '", options.schedule, "', expected step, cosine or constant"));
  };
  return shape().with_warmup(options.warmup);
}

}  // namespace palimpsest::harness
