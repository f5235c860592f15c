#pragma once

// A model in training, for tests of whole steps.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/train/training.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {

/// The samples of a step: images (N, C, H, W) and their classes (N).
struct Batch {
  Tensor images;
  Tensor labels;
};

/// Two images of 8x8 pixels.
inline Batch two_images() {
  return {random_tensor({2, 3, 8, 8}, 9), from_vector<std::int32_t>({2}, {0, 3}, Tag::Data)};
}

/// Normal noise in the size of CIFAR's images, all of class 0; on a meta device its shapes.
inline Batch noise(std::int64_t images, Device where) {
  const Shape shape{images, 3, 32, 32};
  const Tensor labels = Tensor::zeros({images}, Dtype::Int32, where, Tag::Data);
  if (is_meta(where)) return {Tensor::empty(shape, Dtype::Float32, where, Tag::Data), labels};
  Random random(3);
  std::vector<float> pixels(static_cast<std::size_t>(shape.count()));
  for (float& pixel : pixels) pixel = static_cast<float>(random.normal());
  return {Tensor::from_vector(shape, pixels, where, Tag::Data), labels};
}

/// A classifier in training on one batch: the library's step over a task, and its state to the bit.
class Training {
 public:
  /// `init` makes the model and has its random counters.
  Training(train::Task task, const nn::Init& init, Batch batch)
      : init_(init), training_(std::move(task), init), batch_{std::move(batch.images), std::move(batch.labels)} {}

  /// The loss. Gradients of steps before stay.
  Tensor forward() { return training_.loss(batch_); }
  /// A step; `before_backward` is called when forward is over, `again` before the step is taken once more.
  void step(
      const std::function<void()>& before_backward = [] {}, const std::function<void()>& again = nullptr) {
    training_.step(
        batch_, [&](const Tensor&) { before_backward(); }, again);
  }

  /// Weights, buffers, gradients and random counters.
  std::vector<Bits> state() const {
    std::vector<Bits> bits;
    for (const auto& [name, parameter] : training_.model().parameters()) {
      bits.push_back(bits_of(parameter));
      bits.push_back(bits_of(parameter.grad()));
    }
    for (const auto& [name, buffer] : training_.model().buffers()) bits.push_back(bits_of(buffer));
    bits.emplace_back(init_.dropout_generator()->offset);
    return bits;
  }
  std::string digest() const { return training_.model().state_digest(); }

  nn::Classifier& model() { return dynamic_cast<nn::Classifier&>(training_.model()); }
  nn::Sgd& sgd() { return dynamic_cast<nn::Sgd&>(training_.optimiser()); }

 private:
  nn::Init init_;
  train::Training training_;
  std::vector<Tensor> batch_;
};

/// A model of that specification in training; its blocks keep everything.
template <class Model, class Spec>
Training training_of(const Spec& spec, const nn::Init& init, Batch batch,
                     const nn::SgdOptions& sgd = {.learning_rate = 0.05}) {
  const auto loss = [](Model& model, std::span<const Tensor> tensors) {
    return ops::cross_entropy(model(tensors[0]), tensors[1]);
  };
  train::Task task;
  task.make_model = [spec](nn::Init made_with) { return std::make_unique<Model>(spec, std::move(made_with)); };
  task.loss = train::with_model<Model>(loss);
  task.make_optimiser = [sgd](auto parameters) { return std::make_unique<nn::Sgd>(std::move(parameters), sgd); };
  return {std::move(task), init, std::move(batch)};
}

/// A DenseNet-BC with dropout.
inline nn::DenseNetOptions densenet_spec(std::vector<std::int64_t> layers, std::int64_t growth_rate) {
  nn::DenseNetOptions spec;
  spec.layers = std::move(layers);
  spec.growth_rate = growth_rate;
  spec.dropout = 0.2;
  return spec;
}

/// A RevNet of two stages.
inline nn::ResidualOptions revnet_spec(std::vector<std::int64_t> units, std::optional<int> grid = std::nullopt) {
  nn::ResidualOptions spec;
  spec.units = std::move(units);
  spec.filters = {8, 16};
  spec.stem_channels = 8;
  spec.grid = grid;
  return spec;
}

/// A small DenseNet that learns from two images.
inline Training densenet(const PolicyPtr& policy) {
  nn::DenseNetOptions spec = densenet_spec({2, 2}, 4);
  spec.stem_channels = 8;
  Training training = training_of<nn::DenseNet>(spec, nn::Init(5, device()), two_images());
  training.model().set_memory(policy);
  return training;
}

/// A small RevNet that learns from two images.
inline Training revnet(const PolicyPtr& policy, std::optional<int> grid = 12) {
  Training training = training_of<nn::RevNet>(revnet_spec({2, 2}, grid), nn::Init(5, device()), two_images());
  training.model().set_memory(policy);
  return training;
}

}  // namespace palimpsest::test
