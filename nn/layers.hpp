#pragma once

#include <memory>

#include <palimpsest/core/generator.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/nn/module.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/conv2d.hpp>

namespace palimpsest::nn {

/// Where and with which random numbers layers make their parameters. Layers draw in the order in which they are
/// constructed, so a seed fixes a model. Nothing is drawn on a meta device.
class Init {
 public:
  explicit Init(std::uint64_t seed = 0, Device device = Device::Cpu, Dtype dtype = Dtype::Float32)
      : random_(seed), device_(device), dtype_(dtype), dropout_(std::make_shared<Generator>(Generator{seed, 0})) {}

  Device device() const { return device_; }
  Dtype dtype() const { return dtype_; }
  /// The random counters that all dropout layers of a model share.
  const std::shared_ptr<Generator>& dropout_generator() const { return dropout_; }

  Tensor constant(const Shape& shape, double value);
  /// Normal with mean 0.
  Tensor normal(const Shape& shape, double deviation);
  /// Normal with mean 0, drawn again beyond two deviations.
  Tensor truncated_normal(const Shape& shape, double deviation);
  /// Uniform in [-bound, bound).
  Tensor uniform(const Shape& shape, double bound);

 private:
  template <class Draw>
  Tensor filled(const Shape& shape, const Draw& draw);

  Random random_;
  Device device_;
  Dtype dtype_;
  std::shared_ptr<Generator> dropout_;
};

struct Conv2dOptions {
  std::int64_t kernel = 3;
  std::int64_t stride = 1;
  ops::Padding padding;
  bool truncated_init = false;  ///< weights from a truncated instead of a plain normal distribution
};

/// 2-D convolution without bias. Weights are drawn with deviation sqrt(2 / (kernel^2 * out)) (He et al. 2015, fan-out).
class Conv2d : public Module {
 public:
  Conv2d(Init& init, std::int64_t in, std::int64_t out, const Conv2dOptions& options);
  /// (N, in, H, W) -> (N, out, H', W').
  Tensor operator()(Tensor x) const { return ops::conv2d(std::move(x), weight_, spec_); }

 private:
  Tensor weight_;
  ops::Conv2dOptions spec_;
};

struct BatchNormOptions {
  double epsilon = 1e-5;
  double momentum = 0.1;
  bool unbiased_running_variance = true;
  bool relu = true;  ///< every normalisation in the models here is followed by a ReLU
};

/// Batch normalisation, with a ReLU unless told otherwise. Scale 1, shift 0; running mean 0, variance 1.
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

/// Fully connected layer with bias 0; weights uniform in [-bound, bound).
class Linear : public Module {
 public:
  Linear(Init& init, std::int64_t in, std::int64_t out, double bound);
  /// (N, in) -> (N, out).
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor weight_;
  Tensor bias_;
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
