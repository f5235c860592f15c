#include "examples/harness/dry_run.hpp"

#include <algorithm>
#include <optional>
#include <vector>

#include "autograd/verify.hpp"
#include "core/cuda_runtime.hpp"
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

/// What the feed will hold of the device's memory beside the batch that is being trained on: the loader's ring if that
/// is the device, else batches on their way.
struct Feeding {
  std::vector<Samples> ring;
  std::optional<datasets::FeedMemory> memory;

  Feeding(const DataFacts& data, std::int64_t batch_size, const TrainingDefaults& defaults) {
    if (forecast_device() == Device::Cuda) {
      memory.emplace(Device::Meta, batch_size, data.channels, data.stored_size, data.stored_size,
                     defaults.subtract_mean_image);
    } else {
      const datasets::LoaderSpec loader;
      for (int slot = 0; slot < loader.ahead + 1; ++slot) ring.push_back(samples_without_data(data, batch_size));
    }
  }
};

/// While it lives, Meta stands for this device.
class StandIn {
 public:
  explicit StandIn(Device device) : before_(forecast_device()) { set_forecast_device(device); }
  ~StandIn() { set_forecast_device(before_); }
  StandIn(const StandIn&) = delete;
  StandIn& operator=(const StandIn&) = delete;

 private:
  Device before_;
};

Forecast forecast(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults) {
  const DataFacts& data = data_facts(options.data);
  const RunLength length = run_length(options);
  make_schedule(options, length.steps);
  const VerifyScope verify(parse_verify(options.verify));
  PeakMeter meter(Device::Meta);
  const std::unique_ptr<nn::Classifier> model = make_model(data, nn::Init(options.seed, Device::Meta));
  model->set_memory(memory::parse(options.memory));
  nn::Sgd sgd = make_sgd(*model, options, defaults);
  const Feeding feeding(data, length.batch_size, defaults);
  // The first step differs from all others: the optimiser's state does not exist yet.
  for (std::int64_t step = 0; step < std::min<std::int64_t>(length.steps, 2); ++step) {
    train_step(*model, sgd, samples_without_data(data, length.batch_size));
  }
  return {model->parameter_count(), meter.peak()};
}

}  // namespace

Forecast dry_run(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults, Device device) {
  const StandIn stand_in(device);
  try {
    return forecast(make_model, options, defaults);
  } catch (const ValueError& error) {
    throw UsageError(error.what());
  } catch (const ShapeError& error) {
    throw UsageError(error.what());
  }
}

}  // namespace palimpsest::harness
