#pragma once

#include <memory>

#include <palimpsest/nn/init.hpp>
#include <palimpsest/nn/module.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/conv2d.hpp>

namespace palimpsest::nn {

/// The form of a convolution: a square kernel, the same stride both ways.
struct Conv2dOptions {
  std::int64_t kernel = 3;
  std::int64_t stride = 1;
  ops::Padding padding = {};
  bool bias = false;  ///< one number per channel of the output, 0 at first; a normalisation behind needs none
  Initialisation initialisation = Initialisation::HeNormal;
};

/// 2-D convolution.
class Conv2d : public Module {
 public:
  Conv2d(Init& init, std::int64_t in, std::int64_t out, const Conv2dOptions& options = {});
  /// (N, in, H, W) -> (N, out, H', W').
  Tensor operator()(Tensor x) const;

 private:
  Tensor weight_;
  Tensor bias_;  // empty without
  ops::Conv2dOptions spec_;
};

/// As ops::BatchNormOptions; the defaults are PyTorch's.
struct BatchNormOptions {
  double epsilon = 1e-5;
  double momentum = 0.1;
  bool unbiased_running_variance = true;
  bool relu = false;  ///< max(0, y), in the same pass over memory and, before a convolution, the same op
};

/// Batch normalisation, with a ReLU behind it if asked for. Scale 1, shift 0; running mean 0, variance 1 at first.
class BatchNorm2d : public Module {
 public:
  BatchNorm2d(Init& init, std::int64_t channels, const BatchNormOptions& options = {});
  /// (N, channels, H, W) -> the same.
  Tensor operator()(Tensor x) const;

 private:
  Tensor weight_;
  Tensor bias_;
  ops::RunningStatistics running_;
  BatchNormOptions options_;
};

/// Fully connected layer with bias, 0 at first.
class Linear : public Module {
 public:
  Linear(Init& init, std::int64_t in, std::int64_t out, Initialisation initialisation = Initialisation::FanInUniform);
  /// (N, in) -> (N, out).
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor weight_;
  Tensor bias_;
  ops::ProductOptions products_;
};

/// Dropout in training, nothing in evaluation or at probability 0.
class Dropout : public Module {
 public:
  Dropout(Init& init, double probability);
  Tensor operator()(Tensor x) const;

 private:
  double probability_;
  std::shared_ptr<Generator> generator_;
};

}  // namespace palimpsest::nn
