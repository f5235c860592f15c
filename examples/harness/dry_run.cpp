#include "examples/harness/dry_run.hpp"

#include <algorithm>
#include <vector>

#include "examples/harness/command_line.hpp"
#include "examples/harness/training_step.hpp"
#include "memory/policies.hpp"

namespace palimpsest::harness {
namespace {

Samples samples_without_data(const DataFacts& data, std::int64_t size) {
  const Shape images{size, data.channels, image_size, image_size};
  return {Tensor::empty(images, Dtype::Float32, Device::Meta, Tag::Data),
          Tensor::empty({size}, Dtype::Int32, Device::Meta, Tag::Data)};
}

/// The batches that the loader will hold beside the one that is being trained on.
std::vector<Samples> loader_ring(const DataFacts& data, std::int64_t size) {
  const datasets::LoaderSpec loader;
  std::vector<Samples> ring;
  for (int slot = 0; slot < loader.ahead + 1; ++slot) ring.push_back(samples_without_data(data, size));
  return ring;
}

Forecast forecast(const MakeModel& make_model, const Options& options, const Recipe& recipe) {
  const DataFacts& data = data_facts(options.data);
  const RunLength length = run_length(options);
  make_schedule(options, length.steps);
  PeakMeter meter(Device::Meta);
  const std::unique_ptr<nn::Classifier> model = make_model(data, nn::Init(options.seed, Device::Meta));
  model->set_memory(memory::parse(options.memory));
  nn::Sgd sgd = make_sgd(*model, options, recipe);
  const std::vector<Samples> ring = loader_ring(data, length.batch_size);
  // The first step differs from all others: the optimiser's state does not exist yet.
  for (std::int64_t step = 0; step < std::min<std::int64_t>(length.steps, 2); ++step) {
    train_step(*model, sgd, samples_without_data(data, length.batch_size));
  }
  return {model->parameter_count(), meter.peak()};
}

}  // namespace

Forecast dry_run(const MakeModel& make_model, const Options& options, const Recipe& recipe) {
  try {
    return forecast(make_model, options, recipe);
  } catch (const ValueError& error) {
    throw UsageError(error.what());
  } catch (const ShapeError& error) {
    throw UsageError(error.what());
  }
}

}  // namespace palimpsest::harness
