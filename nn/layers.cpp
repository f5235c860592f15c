#include <palimpsest/nn/layers.hpp>

#include <cmath>

#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/linear.hpp>

namespace palimpsest::nn {

template <class Draw>
Tensor Init::filled(const Shape& shape, const Draw& draw) {
  if (is_meta(device_)) return Tensor::empty(shape, dtype_, device_, Tag::Parameter);
  return with_float(dtype_, "init", [&](auto zero) {
    std::vector<decltype(zero)> values(static_cast<std::size_t>(shape.count()));
    for (auto& value : values) value = static_cast<decltype(zero)>(draw());
    return Tensor::from_vector(shape, values, device_, Tag::Parameter);
  });
}

Tensor Init::constant(const Shape& shape, double value) {
  return filled(shape, [=] { return value; });
}

Tensor Init::normal(const Shape& shape, double deviation) {
  return filled(shape, [&] { return deviation * random_.normal(); });
}

Tensor Init::truncated_normal(const Shape& shape, double deviation) {
  return filled(shape, [&] {
    double drawn = random_.normal();
    while (std::abs(drawn) > 2) drawn = random_.normal();
    return deviation * drawn;
  });
}

Tensor Init::uniform(const Shape& shape, double bound) {
  return filled(shape, [&] { return bound * (2 * random_.uniform() - 1); });
}

Conv2d::Conv2d(Init& init, std::int64_t in, std::int64_t out, const Conv2dOptions& options)
    : spec_{options.stride, options.padding} {
  const Shape shape{out, in, options.kernel, options.kernel};
  const double deviation = std::sqrt(2.0 / static_cast<double>(options.kernel * options.kernel * out));
  weight_ = add_parameter(
      "weight", options.truncated_init ? init.truncated_normal(shape, deviation) : init.normal(shape, deviation));
}

BatchNorm2d::BatchNorm2d(Init& init, std::int64_t channels, const BatchNormOptions& options)
    : weight_(add_parameter("weight", init.constant({channels}, 1))),
      bias_(add_parameter("bias", init.constant({channels}, 0))),
      running_{add_buffer("running_mean", init.constant({channels}, 0)),
               add_buffer("running_var", init.constant({channels}, 1))},
      options_(options) {}

Tensor BatchNorm2d::operator()(Tensor x) const {
  return ops::batch_norm(std::move(x), weight_, bias_, running_,
                         {.epsilon = options_.epsilon,
                          .momentum = options_.momentum,
                          .training = training(),
                          .unbiased_running_variance = options_.unbiased_running_variance,
                          .relu = options_.relu});
}

Linear::Linear(Init& init, std::int64_t in, std::int64_t out, double bound)
    : weight_(add_parameter("weight", init.uniform({out, in}, bound))),
      bias_(add_parameter("bias", init.constant({out}, 0))) {}

Tensor Linear::operator()(const Tensor& x) const { return ops::linear(x, weight_, bias_); }

Dropout::Dropout(Init& init, double probability) : probability_(probability), generator_(init.dropout_generator()) {
  if (!(probability >= 0 && probability < 1)) {
    throw ValueError(concat_text("dropout probability is ", probability, ", expected at least 0 and below 1"));
  }
}

Tensor Dropout::operator()(Tensor x) const {
  return training() && probability_ > 0 ? ops::dropout(std::move(x), probability_, generator_) : x;
}

}  // namespace palimpsest::nn
