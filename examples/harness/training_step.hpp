#pragma once

#include <memory>
#include <string_view>

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/feed.hpp>
#include <palimpsest/nn/classifier.hpp>
#include <palimpsest/nn/schedule.hpp>
#include <palimpsest/nn/sgd.hpp>
#include "examples/harness/options.hpp"

namespace palimpsest::harness {

/// The loss is infinite or no number.
class DivergedError : public Error {
 public:
  using Error::Error;
};

/// A batch as the model takes it.
struct Samples {
  Tensor images;  ///< (N, C, H, W)
  Tensor labels;  ///< (N), int32
};

/// The batch that feed.next() returned last, in tensors of its own on the feed's device. Throws OutOfMemory,
/// DeviceError.
Samples take(const datasets::Feed& feed, const datasets::FedBatch& batch);

/// Forward, backward and update. Returns the loss; 0 on a meta device, where there are no numbers. Throws
/// DivergedError, before any parameter has changed, for a loss that is infinite or no number, and what the library
/// throws.
double train_step(nn::Classifier& model, nn::Sgd& sgd, const Samples& samples);

/// The optimiser that the flags and the model's published training describe. Throws ValueError as nn::Sgd.
nn::Sgd make_sgd(const nn::Classifier& model, const Options& options, const TrainingDefaults& defaults);

/// The learning rate over a run of `steps` steps. Throws ValueError as nn::Schedule.
nn::Schedule make_schedule(const Options& options, std::int64_t steps);

}  // namespace palimpsest::harness
