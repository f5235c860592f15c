#include <palimpsest/nn/init.hpp>

#include <cmath>

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

Tensor Init::weight(const Shape& shape, Initialisation how) {
  if (shape.rank() < 2) throw ShapeError(concat_text("init: a weight ", shape, ", expected (out, in, ...)"));
  const double fan_in = static_cast<double>(shape.count() / shape[0]);
  const double fan_out = static_cast<double>(shape.count() / shape[1]);
  switch (how) {
    case Initialisation::HeNormal:
      return normal(shape, std::sqrt(2 / fan_out));
    case Initialisation::HeTruncatedNormal:
      return truncated_normal(shape, std::sqrt(2 / fan_out));
    case Initialisation::LecunUniform:
      return uniform(shape, std::sqrt(3 / fan_in));
    case Initialisation::FanInUniform:
      return uniform(shape, 1 / std::sqrt(fan_in));
  }
  throw ValueError("init: unknown distribution");
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

}  // namespace palimpsest::nn
