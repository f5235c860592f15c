#include <palimpsest/nn/layers.hpp>

#include <palimpsest/ops/bias.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/linear.hpp>

namespace palimpsest::nn {

Conv2d::Conv2d(Init& init, std::int64_t in, std::int64_t out, const Conv2dOptions& options)
    : weight_(add_parameter("weight", init.weight({out, in, options.kernel, options.kernel}, options.initialisation))),
      spec_{options.stride, options.padding, init.products()} {
  if (options.bias) bias_ = add_parameter("bias", init.constant({out}, 0));
}

Tensor Conv2d::operator()(Tensor x) const {
  return located([&] {
    Tensor y = ops::conv2d(std::move(x), weight_, spec_);
    return bias_ ? ops::add_bias(std::move(y), bias_) : y;
  });
}

BatchNorm2d::BatchNorm2d(Init& init, std::int64_t channels, const BatchNormOptions& options)
    : weight_(add_parameter("weight", init.constant({channels}, 1))),
      bias_(add_parameter("bias", init.constant({channels}, 0))),
      running_{add_buffer("running_mean", init.constant({channels}, 0)),
               add_buffer("running_var", init.constant({channels}, 1))},
      options_(options) {}

Tensor BatchNorm2d::operator()(Tensor x) const {
  return located([&] {
    // The op cannot know that it is the input that is wrong, and not gamma.
    const std::int64_t channels = weight_.shape().count();
    if (x && ((x.shape().rank() != 4 && x.shape().rank() != 2) || x.shape().c() != channels)) {
      throw ShapeError(concat_text("[batch_norm] input 0 is ", x.shape(), ", expected (N, ", channels,
                                   ", H, W) or (N, ", channels, ")"));
    }
    return ops::batch_norm(std::move(x), weight_, bias_, running_,
                           {.epsilon = options_.epsilon,
                            .momentum = options_.momentum,
                            .training = training(),
                            .unbiased_running_variance = options_.unbiased_running_variance,
                            .relu = options_.relu});
  });
}

Linear::Linear(Init& init, std::int64_t in, std::int64_t out, Initialisation initialisation)
    : weight_(add_parameter("weight", init.weight({out, in}, initialisation))),
      bias_(add_parameter("bias", init.constant({out}, 0))),
      products_(init.products()) {}

Tensor Linear::operator()(const Tensor& x) const {
  return located([&] { return ops::linear(x, weight_, bias_, products_); });
}

Dropout::Dropout(Init& init, double probability) : probability_(probability), generator_(init.dropout_generator()) {
  if (!(probability >= 0 && probability < 1)) {
    throw ValueError(concat_text("dropout probability is ", probability, ", expected at least 0 and below 1"));
  }
}

Tensor Dropout::operator()(Tensor x) const {
  return located([&] {
    check_hears_of_mode();
    return training() && probability_ > 0 ? ops::dropout(std::move(x), probability_, generator_) : std::move(x);
  });
}

}  // namespace palimpsest::nn
