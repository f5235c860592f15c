#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// Running estimates of a batch normalisation's mean and variance, (C) each: buffers of a module, updated in place.
struct RunningStatistics {
  Tensor mean;
  Tensor variance;
};

struct BatchNormOptions {
  double epsilon = 1e-5;
  double momentum = 0.1;                  ///< weight of the new batch in the running statistics
  bool training = true;                   ///< normalise with the batch's statistics; otherwise with the running ones
  bool unbiased_running_variance = true;  ///< running variance of the sample (PyTorch) or of the batch (TensorFlow)
  bool relu = false;                      ///< return max(0, y): one pass over memory less than a ReLU after it
};

/// Batch normalisation over (N, H, W) for each channel (Ioffe & Szegedy 2015, Algorithm 1), optionally with ReLU.
/// x: (N, C, H, W) or (N, C); gamma, beta, running: (C). Returns x's shape. In training the biased batch variance
/// normalises, and `running` is updated once, in the first forward, never on replay; it is put back if the step fails.
/// While a training step is recorded, the result of a normalisation with ReLU is made when it is first read: a conv2d()
/// that it is moved into normalises x as it loads it instead, and then it never exists. Statistics are worked out, and
/// `running` updated, at once.
/// Throws ShapeError unless gamma, beta and running are (C), or if a training batch has one value per channel;
/// DtypeError and DeviceError unless all are of one floating type and on one device.
Tensor batch_norm(Tensor x, const Tensor& gamma, const Tensor& beta, const RunningStatistics& running,
                  const BatchNormOptions& spec);

}  // namespace palimpsest::ops
