// Cases of convolutions that take over the normalisation and the concat before them.

#include <cmath>

#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include "tests/support/op_case_support.hpp"

namespace palimpsest::test {
namespace {

// away_from_zero: what comes out of the normalisation keeps away from the kink of the ReLU.

std::vector<double> small(std::int64_t count, Random& random) {
  std::vector<double> values = uniform(count, random);
  for (double& value : values) value /= 10;
  return values;
}

/// The tensors that are joined: indices into the first inputs, some of them perhaps several times.
using Order = std::vector<std::size_t>;

template <class Array, class Inputs>
std::vector<Array> in_order(const Order& order, const Inputs& inputs) {
  std::vector<Array> parts;
  for (const std::size_t i : order) parts.push_back(inputs[i]);
  return parts;
}

/// The channel of the joined parts, normalised and rectified.
std::vector<double> normalised(const Array& part, std::int64_t channel, double gamma, double beta) {
  const Shape& shape = part.shape;
  std::vector<double> values;
  for (std::int64_t n = 0; n < shape.n(); ++n) {
    for (std::int64_t h = 0; h < shape.h(); ++h) {
      for (std::int64_t w = 0; w < shape.w(); ++w) values.push_back(part.at(n, channel, h, w));
    }
  }
  const auto count = static_cast<double>(values.size());
  double mean = 0;
  for (const double value : values) mean += value / count;
  double variance = 0;
  for (const double value : values) variance += (value - mean) * (value - mean) / count;
  for (double& value : values) {
    value = std::max(0.0, (value - mean) / std::sqrt(variance + ops::BatchNormOptions().epsilon) * gamma + beta);
  }
  return values;
}

/// weight: (K, C, R, R), with R / 2 zeros around.
Array convolved(const std::vector<std::vector<double>>& channels, const Shape& image, const Array& weight) {
  const std::int64_t kernel = weight.shape.h();
  const std::int64_t pad = kernel / 2;
  const Shape shape = {image.n(), weight.shape.n(), image.h() + 2 * pad - kernel + 1, image.w() + 2 * pad - kernel + 1};
  Array z = {shape, std::vector<double>(static_cast<std::size_t>(shape.count()))};
  for (std::int64_t i = 0; i < shape.count() * weight.shape.c() * kernel * kernel; ++i) {
    std::int64_t rest = i;
    const auto digit = [&](std::int64_t base) { return std::exchange(rest, rest / base) % base; };
    const std::int64_t s = digit(kernel);
    const std::int64_t r = digit(kernel);
    const std::int64_t c = digit(weight.shape.c());
    const std::int64_t w = digit(shape.w());
    const std::int64_t h = digit(shape.h());
    const std::int64_t k = digit(shape.c());
    const std::int64_t row = h + r - pad;
    const std::int64_t col = w + s - pad;
    if (row < 0 || row >= image.h() || col < 0 || col >= image.w()) continue;
    const auto pixel = static_cast<std::size_t>((rest * image.h() + row) * image.w() + col);
    z.at(rest, k, h, w) += channels[static_cast<std::size_t>(c)][pixel] * weight.at(k, c, r, s);
  }
  return z;
}

OpCase fused_case(const std::string& name, const std::vector<Shape>& parts, const Order& order, std::int64_t outputs,
                  std::int64_t kernel) {
  std::int64_t channels = 0;
  for (const std::size_t i : order) channels += parts[i].c();
  OpCase made;
  made.name = "norm_conv_" + name;
  for (const Shape& part : parts) made.inputs.push_back({part, away_from_zero});
  made.inputs.push_back({{channels}, away_from_zero});
  made.inputs.push_back({{channels}, small});
  made.inputs.push_back({{outputs, channels, kernel, kernel}});
  const std::size_t count = parts.size();
  made.run = [=](std::span<const Tensor> in) {
    const Dtype dtype = in[count].dtype();
    const ops::RunningStatistics running = {Tensor::zeros({channels}, dtype, in[count].device()),
                                            Tensor::zeros({channels}, dtype, in[count].device())};
    Tensor y =
        ops::batch_norm(ops::concat(in_order<Tensor>(order, in)), in[count], in[count + 1], running, {.relu = true});
    return std::vector{ops::conv2d(std::move(y), in[count + 2], {.padding = ops::Padding::all(kernel / 2)})};
  };
  made.reference = [=](std::span<const Array> in) {
    std::vector<std::vector<double>> y;
    for (const std::size_t i : order) {
      for (std::int64_t c = 0; c < in[i].shape.c(); ++c) {
        y.push_back(normalised(in[i], c, in[count].values[y.size()], in[count + 1].values[y.size()]));
      }
    }
    return std::vector{convolved(y, in[0].shape, in[count + 2])};
  };
  made.float32_tolerance = 5e-5;
  made.fuses = true;
  return made;
}

}  // namespace

void add_fused_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const std::vector<Shape>& parts, const Order& order,
                       std::int64_t outputs,
                       std::int64_t kernel) { cases.push_back(fused_case(name, parts, order, outputs, kernel)); };
  add("one_part", {{2, 5, 3, 4}}, {0}, 3, 1);
  add("parts", {{3, 4, 3, 3}, {3, 12, 3, 3}, {3, 1, 3, 3}}, {0, 1, 2}, 8, 1);
  add("one_pixel", {{7, 3, 1, 1}, {7, 2, 1, 1}}, {0, 1}, 1, 1);
  add("larger_kernel", {{2, 4, 5, 4}, {2, 3, 5, 4}}, {0, 1}, 5, 3);
  add("tensor_with_itself", {{2, 4, 3, 3}}, {0, 0}, 3, 1);
  add("one_tensor_at_both_ends", {{2, 3, 3, 3}, {2, 2, 3, 3}}, {0, 1, 0}, 3, 3);
  add("wide_tensor_with_itself", {{2, 300, 2, 2}}, {0, 0}, 2, 1);
  add("large", {{5, 24, 13, 9}, {5, 12, 13, 9}, {5, 12, 13, 9}, {5, 12, 13, 9}}, {0, 1, 2, 3}, 48, 1);
}

}  // namespace palimpsest::test
