#pragma once

#include <cstdint>
#include <memory>

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/core/generator.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/ops/product.hpp>

namespace palimpsest::nn {

/// A distribution of weights with mean 0. fan_in is the number of inputs that one output adds up (of a convolution,
/// input channels times the kernel's pixels), fan_out the number of outputs that one input is added to.
enum class Initialisation : std::uint8_t {
  HeNormal,           ///< normal, variance 2 / fan_out (He et al. 2015)
  HeTruncatedNormal,  ///< the same, drawn again beyond two deviations
  LecunUniform,       ///< uniform, variance 1 / fan_in (LeCun et al. 1998)
  FanInUniform,       ///< uniform between -1 / sqrt(fan_in) and 1 / sqrt(fan_in), PyTorch's for linear layers
};

/// The device on which and the random numbers with which layers make their parameters. Layers draw in the order in
/// which they are constructed, so a seed fixes a model. On a meta device nothing is drawn.
class Init {
 public:
  explicit Init(std::uint64_t seed = 0, Device device = Device::Cpu, Dtype dtype = Dtype::Float32,
                const ops::ProductOptions& products = {})
      : random_(seed),
        device_(device),
        dtype_(dtype),
        products_(products),
        dropout_(std::make_shared<Generator>(Generator{seed, 0})) {}

  Device device() const { return device_; }
  Dtype dtype() const { return dtype_; }
  /// How the layers' matrix products are computed.
  const ops::ProductOptions& products() const { return products_; }
  /// The random counters that all dropout layers of a model share.
  const std::shared_ptr<Generator>& dropout_generator() const { return dropout_; }

  /// A weight (out, in) or (out, in, H, W). Throws ShapeError for fewer dimensions.
  Tensor weight(const Shape& shape, Initialisation how);
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
  ops::ProductOptions products_;
  std::shared_ptr<Generator> dropout_;
};

}  // namespace palimpsest::nn
