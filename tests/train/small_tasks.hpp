#pragma once

// Tasks that take moments: small image models on data of which only the form is known, and a line to be fitted.

#include <memory>
#include <utility>

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/train/images.hpp>
#include <palimpsest/train/options.hpp>

namespace palimpsest::test {

using Batch = std::span<const Tensor>;

/// A classifier of 32x32 RGB images, 4,096 to train on and 1,024 to evaluate with.
inline train::Task image_task(std::function<std::unique_ptr<nn::Module>(nn::Init)> make_model) {
  const train::Data images = train::image_data("synthetic", 4096, {.images = {.height = 32, .width = 32}});
  train::Data evaluation = images;
  evaluation.samples = 1024;
  return {.name = "Small",
          .make_model = std::move(make_model),
          .batch = train::image_batch(3, 32, 32),
          .loss = train::with_model<nn::Classifier>(
              [](nn::Classifier& model, Batch batch) { return ops::cross_entropy(model(batch[0]), batch[1]); }),
          .make_optimiser =
              [](auto parameters) { return std::make_unique<nn::Sgd>(std::move(parameters), nn::SgdOptions{}); },
          .training = images,
          .evaluation = std::move(evaluation),
          .score = train::with_model<nn::Classifier>([](nn::Classifier& model, Batch batch) {
            return train::Score{static_cast<double>(ops::count_correct(model(batch[0]), batch[1])),
                                batch[1].shape().count()};
          }),
          .unit = "images"};
}

/// A DenseNet-BC of growth 4.
inline train::Task small_densenet(std::int64_t depth) {
  return image_task([depth](nn::Init init) {
    return std::make_unique<nn::DenseNet>(nn::DenseNetOptions::cifar(depth, 4), std::move(init));
  });
}

inline train::Task small_revnet() {
  return image_task([](nn::Init init) { return std::make_unique<nn::RevNet>(nn::RevNet::cifar(14), std::move(init)); });
}

}  // namespace palimpsest::test
