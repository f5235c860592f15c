#include "examples/harness/meta_training.hpp"

#include <algorithm>

#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/cross_entropy.hpp>

namespace palimpsest::harness {
namespace {

Samples samples_without_data(const DataFacts& data, std::int64_t size, Device meta) {
  const Shape images{size, data.channels, image_size, image_size};
  return {Tensor::empty(images, Dtype::Float32, meta, Tag::Data), Tensor::empty({size}, Dtype::Int32, meta, Tag::Data)};
}

}  // namespace

MetaFeed::MetaFeed(const DataFacts& data, std::int64_t batch_size, const TrainingDefaults& defaults, Device meta) {
  if (meta == Device::MetaCuda) {
    memory_.emplace(meta, batch_size, data.channels, data.stored_size, data.stored_size, defaults.subtract_mean_image);
  } else {
    const datasets::LoaderOptions loader;
    const std::size_t sample =
        static_cast<std::size_t>(data.channels * image_size * image_size) * size_of(Dtype::Float32) +
        size_of(Dtype::Int32);
    const auto batches = static_cast<std::size_t>(loader.ahead + 1);  // in one piece
    ring_ = Buffer(meta, batches * static_cast<std::size_t>(batch_size) * sample, Tag::Data);
  }
}

MetaTraining::MetaTraining(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                           Device device)
    : meta_(meta_of(device)),
      verify_(parse_verify(options.verify)),
      data_(data_facts(options.data)),
      defaults_(defaults),
      batch_size_(run_length(options).batch_size),
      test_batch_size_(std::min(options.batch_size, test_images(options))),
      model_(make_model(data_, nn::Init(options.seed, meta_))),
      sgd_(make_sgd(*model_, options, defaults)),
      feed_(data_, batch_size_, defaults, meta_) {}

void MetaTraining::step() {
  train_step(*model_, sgd_, samples_without_data(data_, batch_size_, meta_));
  begun_ = true;
}

void MetaTraining::evaluate() {
  const NoGrad no_grad;
  const MetaFeed feed(data_, test_batch_size_, defaults_, meta_);
  const Samples samples = samples_without_data(data_, test_batch_size_, meta_);
  model_->train(false);
  ops::count_correct((*model_)(samples.images), samples.labels);
  model_->train(true);
}

memory::Rehearsal MetaTraining::rehearsal() {
  if (!begun_) step();
  return {meta_, [this](const PolicyPtr& policy) {
            if (policy != nullptr) model_->set_memory(policy);
            step();
          }};
}

}  // namespace palimpsest::harness
