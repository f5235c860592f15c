#include "tests/op_cases.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "core/generator.hpp"
#include "ops/add.hpp"
#include "ops/batch_norm.hpp"
#include "ops/bias.hpp"
#include "ops/concat.hpp"
#include "ops/conv2d.hpp"
#include "ops/couple.hpp"
#include "ops/cross_entropy.hpp"
#include "ops/dropout.hpp"
#include "ops/linear.hpp"
#include "ops/pad_channels.hpp"
#include "ops/pool.hpp"
#include "ops/relu.hpp"

namespace palimpsest::test {

std::vector<double> uniform(std::int64_t count, Random& random) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = 2 * random.uniform() - 1;
  return values;
}

std::vector<double> integers(std::int64_t count, Random& random) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = static_cast<double>(random.below(7)) - 3;
  return values;
}

std::vector<double> spaced(std::int64_t count, Random& random) {
  std::vector<double> values(static_cast<std::size_t>(count));
  const std::int64_t middle = count / 2;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = (static_cast<double>(i) - static_cast<double>(middle) + 0.5) / 32;
    std::swap(values[i], values[random.below(i + 1)]);
  }
  return values;
}

namespace {

using Arrays = std::span<const Array>;
using Tensors = std::span<const Tensor>;

Fill scaled(double factor, Fill fill = uniform) {
  return [=](std::int64_t count, Random& random) {
    std::vector<double> values = fill(count, random);
    for (double& value : values) value *= factor;
    return values;
  };
}

/// Multiples of `step`, from -range to range.
Fill multiples_of(double step, double range = 4) {
  return [=](std::int64_t count, Random& random) {
    std::vector<double> values = uniform(count, random);
    for (double& value : values) value = std::round(value * range / step) * step;
    return values;
  };
}

/// From 0.5 to 1, of either sign.
std::vector<double> away_from_zero(std::int64_t count, Random& random) {
  std::vector<double> values = uniform(count, random);
  for (double& value : values) value = std::copysign((1 + std::abs(value)) / 2, value);
  return values;
}

OpInput labels(std::int64_t n, std::int64_t classes) {
  const Fill fill = [=](std::int64_t count, Random& random) {
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) value = static_cast<double>(random.below(static_cast<std::uint64_t>(classes)));
    return values;
  };
  return {{n}, fill, false, true};
}

template <class T>
std::vector<T> converted(const std::vector<double>& values) {
  std::vector<T> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), [](double value) { return static_cast<T>(value); });
  return result;
}

Tensor make_tensor(const Shape& shape, const std::vector<double>& values, Dtype dtype, Device device) {
  if (dtype == Dtype::Int32) return Tensor::from_vector(shape, converted<std::int32_t>(values), device);
  if (dtype == Dtype::Float64) return Tensor::from_vector(shape, values, device);
  return Tensor::from_vector(shape, converted<float>(values), device);
}

Array array_of(const Shape& shape) { return {shape, std::vector<double>(static_cast<std::size_t>(shape.count()))}; }

/// Applies `function(value, n, c, h, w)` to every element.
template <class Function>
Array map(const Array& x, const Function& function) {
  Array y = array_of(x.shape);
  for (std::int64_t n = 0; n < x.shape.n(); ++n) {
    for (std::int64_t c = 0; c < x.shape.c(); ++c) {
      for (std::int64_t h = 0; h < x.shape.h(); ++h) {
        for (std::int64_t w = 0; w < x.shape.w(); ++w) y.at(n, c, h, w) = function(x.at(n, c, h, w), n, c, h, w);
      }
    }
  }
  return y;
}

template <class Function>
Array map_values(const Array& x, const Function& function) {
  Array y = x;
  std::transform(y.values.begin(), y.values.end(), y.values.begin(), function);
  return y;
}

Array sum_of(const Array& a, const Array& b) {
  Array sum = a;
  for (std::size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += b.values[i];
  return sum;
}

// Convolution and linear.

double naive_conv2d_pixel(const Array& x, const Array& weight, std::int64_t n, std::int64_t k, std::int64_t top,
                          std::int64_t left) {
  double sum = 0;
  for (std::int64_t c = 0; c < x.shape.c(); ++c) {
    for (std::int64_t r = 0; r < weight.shape.h(); ++r) {
      for (std::int64_t s = 0; s < weight.shape.w(); ++s) {
        const std::int64_t h = top + r;
        const std::int64_t w = left + s;
        const bool inside = h >= 0 && h < x.shape.h() && w >= 0 && w < x.shape.w();
        if (inside) sum += x.at(n, c, h, w) * weight.at(k, c, r, s);
      }
    }
  }
  return sum;
}

Array naive_conv2d(const Array& x, const Array& weight, const ops::Conv2dSpec& spec) {
  const ops::Padding& pad = spec.padding;
  const std::int64_t height = (x.shape.h() + pad.top + pad.bottom - weight.shape.h()) / spec.stride + 1;
  const std::int64_t width = (x.shape.w() + pad.left + pad.right - weight.shape.w()) / spec.stride + 1;
  return map(array_of({x.shape.n(), weight.shape.n(), height, width}),
             [&](double, std::int64_t n, std::int64_t k, std::int64_t h, std::int64_t w) {
               return naive_conv2d_pixel(x, weight, n, k, h * spec.stride - pad.top, w * spec.stride - pad.left);
             });
}

OpCase conv2d_case(const std::string& name, const Shape& x, const Shape& weight, const ops::Conv2dSpec& spec) {
  OpCase made;
  made.name = "conv2d_" + name;
  made.inputs = {{x}, {weight}};
  made.run = [=](Tensors in) { return std::vector{ops::conv2d(in[0], in[1], spec)}; };
  made.reference = [=](Arrays in) { return std::vector{naive_conv2d(in[0], in[1], spec)}; };
  made.exact_on_integers = true;
  return made;
}

void add_conv2d_cases(std::vector<OpCase>& cases) {
  const auto all = ops::Padding::all;
  const std::vector<OpCase> list = {
      conv2d_case("one_element", {1, 1, 1, 1}, {1, 1, 1, 1}, {}),
      conv2d_case("1x1", {3, 5, 4, 7}, {7, 5, 1, 1}, {}),
      conv2d_case("1x1_stride_2", {2, 3, 5, 7}, {4, 3, 1, 1}, {2, {}}),
      conv2d_case("1x1_stride_3_padded", {2, 3, 5, 7}, {4, 3, 1, 1}, {3, all(1)}),
      conv2d_case("3x3", {2, 3, 5, 7}, {4, 3, 3, 3}, {1, all(1)}),
      conv2d_case("3x3_unpadded_primes", {1, 7, 11, 5}, {13, 7, 3, 3}, {}),
      conv2d_case("3x3_stride_2_same", {2, 3, 6, 8}, {4, 3, 3, 3}, {2, {0, 0, 1, 1}}),
      conv2d_case("3x3_stride_3", {2, 4, 10, 7}, {5, 4, 3, 3}, {3, all(1)}),
      conv2d_case("3x3_padding_all_different", {2, 3, 4, 5}, {5, 3, 3, 3}, {1, {2, 1, 0, 3}}),
      conv2d_case("3x3_padding_larger_than_needed", {1, 3, 3, 4}, {4, 3, 3, 3}, {1, all(4)}),
      conv2d_case("3x3_one_channel", {1, 1, 9, 6}, {1, 1, 3, 3}, {1, all(1)}),
      conv2d_case("3x3_to_one_channel", {2, 8, 5, 5}, {1, 8, 3, 3}, {1, all(1)}),
      conv2d_case("3x3_17_channels", {1, 17, 4, 5}, {17, 17, 3, 3}, {1, all(1)}),
      conv2d_case("3x3_33_to_31_channels", {2, 33, 5, 6}, {31, 33, 3, 3}, {1, all(1)}),
      conv2d_case("1x3", {2, 3, 5, 7}, {4, 3, 1, 3}, {1, {0, 1, 0, 1}}),
      conv2d_case("5x2_stride_2", {2, 3, 9, 7}, {4, 3, 5, 2}, {2, {2, 0, 2, 1}}),
      conv2d_case("2x2_stride_3", {2, 3, 8, 11}, {4, 3, 2, 2}, {3, {}}),
      conv2d_case("7x7_stride_2", {1, 3, 17, 13}, {4, 3, 7, 7}, {2, all(3)}),
      conv2d_case("kernel_as_large_as_image", {2, 3, 5, 4}, {6, 3, 5, 4}, {}),
      conv2d_case("kernel_larger_than_image", {1, 2, 2, 2}, {3, 2, 5, 5}, {1, all(2)}),
      conv2d_case("many_pixels", {5, 12, 23, 19}, {17, 12, 3, 3}, {1, all(1)}),
      conv2d_case("many_pixels_1x1", {7, 24, 19, 17}, {20, 24, 1, 1}, {}),
  };
  cases.insert(cases.end(), list.begin(), list.end());
}

Array naive_linear(const Array& x, const Array& weight, const Array& bias) {
  return map(array_of({x.shape.n(), weight.shape.n()}),
             [&](double, std::int64_t n, std::int64_t o, std::int64_t, std::int64_t) {
               double sum = bias.values[static_cast<std::size_t>(o)];
               for (std::int64_t i = 0; i < x.shape.c(); ++i) sum += x.at(n, i) * weight.at(o, i);
               return sum;
             });
}

void add_linear_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, std::int64_t n, std::int64_t in, std::int64_t out) {
    OpCase made;
    made.name = "linear_" + name;
    made.inputs = {{{n, in}}, {{out, in}}, {{out}}};
    made.run = [](Tensors in) { return std::vector{ops::linear(in[0], in[1], in[2])}; };
    made.reference = [](Arrays in) { return std::vector{naive_linear(in[0], in[1], in[2])}; };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("one_element", 1, 1, 1);
  add("batch_1", 1, 7, 5);
  add("primes", 3, 17, 13);
  add("one_output", 67, 5, 1);
  add("one_input_feature", 5, 1, 3);
  add("many_rows", 131, 33, 29);
}

// Elementwise ops and those that move channels about.

void add_elementwise_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& suffix, const Shape& shape) {
    OpCase sum;
    sum.name = "add_" + suffix;
    sum.inputs = {{shape}, {shape}};
    sum.run = [](Tensors in) { return std::vector{ops::add(in[0], in[1])}; };
    sum.reference = [](Arrays in) { return std::vector{sum_of(in[0], in[1])}; };
    sum.exact_on_integers = true;
    cases.push_back(sum);

    OpCase relu;
    relu.name = "relu_" + suffix;
    relu.inputs = {{shape, spaced}};
    relu.run = [](Tensors in) { return std::vector{ops::relu(in[0])}; };
    relu.reference = [](Arrays in) {
      return std::vector{map_values(in[0], [](double value) { return std::max(value, 0.0); })};
    };
    relu.exact_on_integers = true;
    cases.push_back(relu);
  };
  add("scalar", {});
  add("one_element", {1, 1, 1, 1});
  add("vector", {13});
  add("rank_3", {2, 3, 5});
  add("image", {2, 3, 5, 7});
  add("large", {5, 17, 29, 31});

  OpCase twice;
  twice.name = "add_tensor_to_itself";
  twice.inputs = {{{2, 3, 5, 7}}};
  twice.run = [](Tensors in) { return std::vector{ops::add(in[0], in[0])}; };
  twice.reference = [](Arrays in) { return std::vector{sum_of(in[0], in[0])}; };
  twice.exact_on_integers = true;
  cases.push_back(twice);
}

void add_bias_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape) {
    OpCase made;
    made.name = "add_bias_" + name;
    made.inputs = {{shape}, {{shape.c()}}};
    made.run = [](Tensors in) { return std::vector{ops::add_bias(in[0], in[1])}; };
    made.reference = [](Arrays in) {
      const auto plus_bias = [&](double value, std::int64_t, std::int64_t c, std::int64_t, std::int64_t) {
        return value + in[1].values[static_cast<std::size_t>(c)];
      };
      return std::vector{map(in[0], plus_bias)};
    };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("one_element", {1, 1});
  add("matrix", {5, 13});
  add("image", {2, 3, 5, 7});
  add("one_channel", {3, 1, 4, 5});
  add("large", {5, 17, 29, 31});
}

Array naive_pad_channels(const Array& x, std::int64_t before, std::int64_t after) {
  return map(array_of(x.shape.with_channels(before + x.shape.c() + after)),
             [&](double, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
               return c >= before && c < before + x.shape.c() ? x.at(n, c - before, h, w) : 0;
             });
}

void add_pad_channels_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, std::int64_t before, std::int64_t after) {
    OpCase made;
    made.name = "pad_channels_" + name;
    made.inputs = {{shape}};
    made.run = [=](Tensors in) { return std::vector{ops::pad_channels(in[0], before, after)}; };
    made.reference = [=](Arrays in) { return std::vector{naive_pad_channels(in[0], before, after)}; };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1}, 1, 1);
  add("by_nothing", {2, 3, 5, 7}, 0, 0);
  add("before", {2, 3, 5, 7}, 4, 0);
  add("after", {2, 3, 5, 7}, 0, 5);
  add("unevenly", {1, 7, 3, 2}, 2, 5);
  add("matrix", {5, 3}, 1, 2);
  add("large", {5, 17, 29, 31}, 8, 9);
}

/// The channels [first, first + channels) of x.
Array naive_slice(const Array& x, std::int64_t first, std::int64_t channels) {
  return map(array_of(x.shape.with_channels(channels)), [&](double, std::int64_t n, std::int64_t c, std::int64_t h,
                                                            std::int64_t w) { return x.at(n, first + c, h, w); });
}

Array naive_concat(Arrays parts) {
  std::int64_t channels = 0;
  for (const Array& part : parts) channels += part.shape.c();
  Array whole = array_of(parts[0].shape.with_channels(channels));
  std::int64_t first = 0;
  for (const Array& part : parts) {
    const Array padded = naive_pad_channels(part, first, channels - first - part.shape.c());
    whole = sum_of(whole, padded);
    first += part.shape.c();
  }
  return whole;
}

OpCase concat_case(const std::string& name, const Shape& shape, std::span<const std::int64_t> channels) {
  OpCase made;
  made.name = "concat_" + name;
  for (const std::int64_t part : channels) made.inputs.push_back({shape.with_channels(part)});
  made.run = [](Tensors in) { return std::vector{ops::concat(in)}; };
  made.reference = [](Arrays in) { return std::vector{naive_concat(in)}; };
  made.exact_on_integers = true;
  return made;
}

/// 1, 2, 3, 1, 2, 3, ...
std::vector<std::int64_t> uneven_channels(std::int64_t parts) {
  std::vector<std::int64_t> channels;
  for (std::int64_t i = 0; i < parts; ++i) channels.push_back(i % 3 + 1);
  return channels;
}

void add_concat_cases(std::vector<OpCase>& cases) {
  for (const std::int64_t parts : {2, 3, 17, 63, 64, 65, 70}) {
    cases.push_back(concat_case(concat_text(parts, "_inputs"), {2, 1, 2, 3}, uneven_channels(parts)));
  }
  cases.push_back(concat_case("one_element_each", {1, 1, 1, 1}, std::vector<std::int64_t>{1, 1}));
  cases.push_back(concat_case("matrices", {5, 1}, std::vector<std::int64_t>{3, 1, 7}));
  cases.push_back(concat_case("large", {5, 1, 29, 31}, std::vector<std::int64_t>{13, 12, 5}));

  OpCase some_wanted = concat_case("gradient_of_the_middle_alone", {2, 1, 3, 5}, std::vector<std::int64_t>{2, 3, 5});
  some_wanted.inputs[0].gradient = some_wanted.inputs[2].gradient = false;
  cases.push_back(some_wanted);

  OpCase twice = concat_case("tensor_with_itself", {2, 3, 5, 7}, std::vector<std::int64_t>{3});
  twice.run = [](Tensors in) { return std::vector{ops::concat(std::vector{in[0], in[0]})}; };
  twice.reference = [](Arrays in) { return std::vector{naive_concat(std::vector{in[0], in[0]})}; };
  cases.push_back(twice);

  OpCase interleaved = concat_case("one_tensor_at_both_ends", {2, 1, 3, 5}, std::vector<std::int64_t>{3, 2});
  interleaved.run = [](Tensors in) { return std::vector{ops::concat(std::vector{in[0], in[1], in[0]})}; };
  interleaved.reference = [](Arrays in) { return std::vector{naive_concat(std::vector{in[0], in[1], in[0]})}; };
  cases.push_back(interleaved);
}

OpCase split_case(const std::string& name, const Shape& shape, const std::vector<std::int64_t>& channels) {
  OpCase made;
  made.name = "split_" + name;
  made.inputs = {{shape}};
  made.run = [=](Tensors in) { return ops::split(in[0], channels); };
  made.reference = [=](Arrays in) {
    std::vector<Array> parts;
    std::int64_t first = 0;
    for (const std::int64_t part : channels) {
      parts.push_back(naive_slice(in[0], first, part));
      first += part;
    }
    return parts;
  };
  made.exact_on_integers = true;
  return made;
}

void add_split_cases(std::vector<OpCase>& cases) {
  cases.push_back(split_case("one_element", {1, 1, 1, 1}, {1}));
  cases.push_back(split_case("halves", {2, 6, 3, 5}, {3, 3}));
  cases.push_back(split_case("unevenly", {1, 10, 3, 2}, {1, 7, 2}));
  cases.push_back(split_case("matrix", {5, 7}, {3, 4}));
  cases.push_back(split_case("70_parts", {1, 139, 2, 1}, uneven_channels(70)));
  cases.push_back(split_case("large", {5, 24, 29, 31}, {11, 13}));

  OpCase unused = split_case("with_an_unused_part", {2, 6, 3, 5}, {1, 2, 3});
  unused.run = [](Tensors in) {
    const std::vector<std::int64_t> channels = {1, 2, 3};
    const std::vector<Tensor> parts = ops::split(in[0], channels);
    return std::vector{parts[0], parts[2]};
  };
  unused.reference = [](Arrays in) { return std::vector{naive_slice(in[0], 0, 1), naive_slice(in[0], 3, 3)}; };
  cases.push_back(unused);
}

// Pooling.

enum class Pool { Average, Maximum };

double naive_window(const Array& x, Pool pool, std::int64_t kernel, std::int64_t n, std::int64_t c, std::int64_t top,
                    std::int64_t left) {
  double sum = 0;
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t h = std::max<std::int64_t>(top, 0); h < std::min(top + kernel, x.shape.h()); ++h) {
    for (std::int64_t w = std::max<std::int64_t>(left, 0); w < std::min(left + kernel, x.shape.w()); ++w) {
      sum += x.at(n, c, h, w);
      largest = std::max(largest, x.at(n, c, h, w));
    }
  }
  return pool == Pool::Maximum ? largest : sum / static_cast<double>(kernel * kernel);
}

Array naive_pool(const Array& x, Pool pool, std::int64_t kernel, std::int64_t stride, std::int64_t padding) {
  const std::int64_t height = (x.shape.h() + 2 * padding - kernel) / stride + 1;
  const std::int64_t width = (x.shape.w() + 2 * padding - kernel) / stride + 1;
  return map(array_of({x.shape.n(), x.shape.c(), height, width}),
             [&](double, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
               return naive_window(x, pool, kernel, n, c, h * stride - padding, w * stride - padding);
             });
}

void add_avg_pool2d_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, std::int64_t kernel, std::int64_t stride) {
    OpCase made;
    made.name = "avg_pool2d_" + name;
    made.inputs = {{shape}};
    made.run = [=](Tensors in) { return std::vector{ops::avg_pool2d(in[0], kernel, stride)}; };
    made.reference = [=](Arrays in) { return std::vector{naive_pool(in[0], Pool::Average, kernel, stride, 0)}; };
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1}, 1, 1);
  add("2_2", {2, 3, 4, 6}, 2, 2);
  add("2_2_does_not_divide", {2, 3, 5, 7}, 2, 2);
  add("3_1_overlapping", {1, 5, 5, 4}, 3, 1);
  add("3_2_overlapping", {2, 1, 7, 8}, 3, 2);
  add("2_3_with_gaps", {1, 3, 8, 7}, 2, 3);
  add("whole_image", {2, 17, 5, 5}, 5, 1);
  add("large", {5, 17, 28, 31}, 2, 2);
}

void add_max_pool2d_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, std::int64_t kernel, std::int64_t stride,
                       std::int64_t padding) {
    OpCase made;
    made.name = "max_pool2d_" + name;
    made.inputs = {{shape, spaced}};
    made.run = [=](Tensors in) { return std::vector{ops::max_pool2d(in[0], kernel, stride, padding)}; };
    made.reference = [=](Arrays in) { return std::vector{naive_pool(in[0], Pool::Maximum, kernel, stride, padding)}; };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1}, 1, 1, 0);
  add("one_element_padded", {1, 1, 1, 1}, 3, 2, 1);
  add("3_2_1", {2, 3, 7, 5}, 3, 2, 1);
  add("3_2_1_even", {1, 5, 8, 6}, 3, 2, 1);
  add("2_2_does_not_divide", {2, 3, 5, 7}, 2, 2, 0);
  add("2_1_padded", {1, 3, 4, 3}, 2, 1, 1);
  add("3_1_overlapping", {1, 7, 5, 4}, 3, 1, 0);
  add("2_3_with_gaps", {1, 3, 8, 7}, 2, 3, 0);
  add("4_1_2_larger_than_image", {1, 2, 2, 1}, 4, 1, 2);
  add("large", {3, 17, 29, 31}, 3, 2, 1);
}

void add_global_avg_pool_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape) {
    OpCase made;
    made.name = "global_avg_pool_" + name;
    made.inputs = {{shape}};
    made.run = [](Tensors in) { return std::vector{ops::global_avg_pool(in[0])}; };
    made.reference = [](Arrays in) {
      const Shape& x = in[0].shape;
      Array mean = array_of({x.n(), x.c()});
      map(in[0], [&](double value, std::int64_t n, std::int64_t c, std::int64_t, std::int64_t) {
        return mean.at(n, c) += value / static_cast<double>(x.h() * x.w());
      });
      return std::vector{mean};
    };
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1});
  add("one_pixel", {3, 17, 1, 1});
  add("image", {2, 3, 5, 7});
  add("large", {5, 67, 13, 11});
}

// Reversible coupling and rounding.

double on_grid(double value, int grid) { return std::ldexp(std::nearbyint(std::ldexp(value, grid)), -grid); }

OpCase couple_case(const std::string& name, const Shape& shape, std::optional<int> grid) {
  OpCase made;
  made.name = "couple_" + name;
  made.inputs = {{shape}, {shape}};
  made.run = [=](Tensors in) { return std::vector{ops::couple(in[0], in[1], grid)}; };
  made.reference = [=](Arrays in) {
    const auto rounded = [&](double value) { return grid ? on_grid(value, *grid) : value; };
    return std::vector{sum_of(in[0], map_values(in[1], rounded))};
  };
  made.exact_on_integers = true;
  if (!grid) return made;
  made.inputs[0].fill = multiples_of(std::ldexp(1, -*grid));
  made.inputs[1].fill = multiples_of(std::ldexp(1, -*grid - 2));  // ties among them
  made.straight_through = [](Tensors in) { return std::vector{ops::add(in[0], in[1])}; };
  return made;
}

OpCase round_case(const std::string& name, const Shape& shape, int grid) {
  OpCase made;
  made.name = "round_to_grid_" + name;
  made.inputs = {{shape, multiples_of(std::ldexp(1, -grid - 2))}};
  made.run = [=](Tensors in) { return std::vector{ops::round_to_grid(in[0], grid)}; };
  made.reference = [=](Arrays in) {
    return std::vector{map_values(in[0], [=](double value) { return on_grid(value, grid); })};
  };
  made.straight_through = [](Tensors in) { return std::vector{in[0]}; };
  made.exact_on_integers = true;
  return made;
}

void add_couple_cases(std::vector<OpCase>& cases) {
  cases.push_back(couple_case("one_element", {1, 1, 1, 1}, std::nullopt));
  cases.push_back(couple_case("image", {2, 3, 5, 7}, std::nullopt));
  cases.push_back(couple_case("large", {5, 17, 29, 31}, std::nullopt));
  cases.push_back(couple_case("on_grid_0", {13}, 0));
  cases.push_back(couple_case("on_grid_16", {2, 3, 5, 7}, 16));
  cases.push_back(couple_case("on_grid_large", {5, 17, 29, 31}, 12));
  cases.push_back(round_case("0", {13}, 0));
  cases.push_back(round_case("16", {2, 3, 5, 7}, 16));
  cases.push_back(round_case("large", {5, 17, 29, 31}, 12));
}

// Dropout.

constexpr std::uint64_t dropout_seed = 20140101;
constexpr std::uint64_t dropout_offset = 5;

Array naive_dropout(const Array& x, double probability) {
  return map(x, [&](double value, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
    const auto i = static_cast<std::uint64_t>(((n * x.shape.h() + h) * x.shape.w() + w) * x.shape.c() + c);
    const bool kept = unit_float(philox(dropout_seed, dropout_offset + i / 4)[i % 4]) >= probability;
    return kept ? value / (1 - probability) : 0;
  });
}

void add_dropout_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, double probability) {
    OpCase made;
    made.name = "dropout_" + name;
    made.inputs = {{shape}};
    made.run = [=](Tensors in) {
      const auto generator = std::make_shared<Generator>(Generator{dropout_seed, dropout_offset});
      return std::vector{ops::dropout(in[0], probability, generator)};
    };
    made.reference = [=](Arrays in) { return std::vector{naive_dropout(in[0], probability)}; };
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1}, 0.25);
  add("of_nothing", {2, 3, 5, 7}, 0);
  add("image", {2, 3, 5, 7}, 0.3);
  add("of_nearly_all", {11, 13}, 0.9);
  add("large", {5, 17, 29, 31}, 0.5);
}

// Batch normalisation.

/// Fresh ones for every call, of no special values.
ops::RunningStatistics running_statistics(std::int64_t channels, Dtype dtype, Device device) {
  const Dtype floating = dtype == Dtype::Int32 ? Dtype::Float32 : dtype;
  std::vector<double> means;
  std::vector<double> variances;
  for (std::int64_t c = 0; c < channels; ++c) {
    means.push_back(static_cast<double>(c % 5) / 8 - 0.25);
    variances.push_back(static_cast<double>(c % 3) / 4 + 0.5);
  }
  return {make_tensor({channels}, means, floating, device), make_tensor({channels}, variances, floating, device)};
}

struct Moments {
  double mean;
  double variance;
};

Moments channel_moments(const Array& x, std::int64_t channel) {
  const auto mean_of = [&](const auto& function) {
    double sum = 0;
    map(x, [&](double value, std::int64_t, std::int64_t c, std::int64_t, std::int64_t) {
      if (c == channel) sum += function(value);
      return 0;
    });
    return sum / static_cast<double>(x.shape.pixels());
  };
  const double mean = mean_of([](double value) { return value; });
  return {mean, mean_of([&](double value) { return (value - mean) * (value - mean); })};
}

Array naive_batch_norm(Arrays in, const ops::BatchNormSpec& spec) {
  const Array& x = in[0];
  const ops::RunningStatistics running = running_statistics(x.shape.c(), Dtype::Float64, Device::Cpu);
  const std::vector<double> means = running.mean.to_vector<double>();
  const std::vector<double> variances = running.variance.to_vector<double>();
  std::vector<Moments> moments;
  for (std::size_t c = 0; c < means.size(); ++c) {
    moments.push_back(spec.training ? channel_moments(x, static_cast<std::int64_t>(c))
                                    : Moments{means[c], variances[c]});
  }
  return map(x, [&](double value, std::int64_t, std::int64_t channel, std::int64_t, std::int64_t) {
    const auto c = static_cast<std::size_t>(channel);
    const double deviation = std::sqrt(moments[c].variance + spec.epsilon);
    const double y = (value - moments[c].mean) / deviation * in[1].values[c] + in[2].values[c];
    return spec.relu ? std::max(y, 0.0) : y;
  });
}

OpCase batch_norm_case(const std::string& name, const Shape& x, const ops::BatchNormSpec& spec) {
  OpCase made;
  made.name = concat_text("batch_norm_", spec.training ? "train_" : "eval_", spec.relu ? "relu_" : "", name);
  made.inputs = {{x, scaled(2)}, {{x.c()}}, {{x.c()}}};
  // What comes out keeps away from the kink of the ReLU.
  if (spec.relu) made.inputs = {{x, scaled(2, away_from_zero)}, {{x.c()}, away_from_zero}, {{x.c()}, scaled(0.1)}};
  made.run = [=](Tensors in) {
    const ops::RunningStatistics running = running_statistics(x.c(), in[0].dtype(), in[0].device());
    return std::vector{ops::batch_norm(in[0], in[1], in[2], running, spec)};
  };
  made.reference = [=](Arrays in) { return std::vector{naive_batch_norm(in, spec)}; };
  made.float32_tolerance = 5e-5;
  return made;
}

void add_batch_norm_cases(std::vector<OpCase>& cases) {
  for (const bool training : {true, false}) {
    for (const bool relu : {false, true}) {
      ops::BatchNormSpec spec;
      spec.training = training;
      spec.relu = relu;
      const auto add = [&](const std::string& name, const Shape& x) {
        cases.push_back(batch_norm_case(name, x, spec));
      };
      if (!training) add("one_element", {1, 1, 1, 1});
      add("three_values", {3, 1, 1, 1});
      add("batch_1", {1, 3, 5, 7});
      add("image", {2, 5, 3, 4});
      add("one_pixel", {7, 17, 1, 1});
      add("matrix", {5, 13});
      add("large", {5, 17, 23, 19});
    }
  }
  // Two values are normalised to -1 and 1 wherever they are, so the gradient of x is only what epsilon leaves of terms
  // a hundred thousand times larger.
  OpCase two = batch_norm_case("two_values", {2, 1, 1, 1}, {});
  two.float32_tolerance = 0.1;
  cases.push_back(two);
}

// Cross entropy.

Array naive_cross_entropy(const Array& logits, const Array& labels) {
  double sum = 0;
  for (std::int64_t n = 0; n < logits.shape.n(); ++n) {
    double largest = logits.at(n, 0);
    for (std::int64_t k = 1; k < logits.shape.c(); ++k) largest = std::max(largest, logits.at(n, k));
    double exponentials = 0;
    for (std::int64_t k = 0; k < logits.shape.c(); ++k) exponentials += std::exp(logits.at(n, k) - largest);
    const auto label = static_cast<std::int64_t>(labels.values[static_cast<std::size_t>(n)]);
    sum += std::log(exponentials) + largest - logits.at(n, label);
  }
  return {{}, {sum / static_cast<double>(logits.shape.n())}};
}

void add_cross_entropy_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, std::int64_t n, std::int64_t classes, double scale) {
    OpCase made;
    made.name = "cross_entropy_" + name;
    made.inputs = {{{n, classes}, scaled(scale)}, labels(n, classes)};
    made.run = [](Tensors in) { return std::vector{ops::cross_entropy(in[0], in[1])}; };
    made.reference = [](Arrays in) { return std::vector{naive_cross_entropy(in[0], in[1])}; };
    cases.push_back(made);
  };
  add("one_class", 1, 1, 1);
  add("batch_1", 1, 2, 1);
  add("primes", 5, 7, 3);
  add("100_classes", 3, 100, 3);
  add("large_logits", 17, 10, 300);
  add("huge_logits", 3, 5, 1e4);
  add("large", 131, 67, 3);
}

std::vector<OpCase> make_cases() {
  std::vector<OpCase> cases;
  add_conv2d_cases(cases);
  add_linear_cases(cases);
  add_elementwise_cases(cases);
  add_bias_cases(cases);
  add_pad_channels_cases(cases);
  add_concat_cases(cases);
  add_split_cases(cases);
  add_avg_pool2d_cases(cases);
  add_max_pool2d_cases(cases);
  add_global_avg_pool_cases(cases);
  add_couple_cases(cases);
  add_dropout_cases(cases);
  add_batch_norm_cases(cases);
  add_cross_entropy_cases(cases);
  add_fused_cases(cases);
  return cases;
}

// Calls that must be refused. Inputs want gradients, so that what was recorded before the refusal must go, too.

Tensor leaf(const Shape& shape, Dtype dtype = Dtype::Float32) { return zeros(shape, dtype).requires_grad(); }

Tensor filled(const Shape& shape, double value) {
  const std::vector<double> values(static_cast<std::size_t>(shape.count()), value);
  return make_tensor(shape, values, Dtype::Float32, device()).requires_grad();
}

Tensor int32_zeros(const Shape& shape) { return zeros(shape, Dtype::Int32); }

template <class Expected>
void add_bad(std::vector<BadCall>& calls, const std::string& name, const std::string& message,
             std::function<void()> call) {
  const auto has_type = [](const std::exception& thrown) { return dynamic_cast<const Expected*>(&thrown) != nullptr; };
  calls.push_back({name, std::move(call), has_type, message});
}

void add_bad_conv2d_and_linear(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "conv2d_rank_of_x", "[conv2d] input 0 is (2, 3), expected (N, C, H, W)", [] {
    ops::conv2d(leaf({2, 3}), leaf({4, 3, 3, 3}));
  });
  add_bad<ShapeError>(calls, "conv2d_rank_of_weight", "[conv2d] input 1 is (4, 3), expected (K, C, R, S)", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3}));
  });
  add_bad<ShapeError>(calls, "conv2d_channels", "[conv2d] weight is (4, 2, 3, 3), expected (*, 3, *, *)", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 2, 3, 3}));
  });
  add_bad<ShapeError>(calls, "conv2d_kernel_too_large", "[conv2d] weight (4, 3, 6, 3) is larger than the padded input",
                      [] {
                        ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3, 6, 3}));
                      });
  add_bad<ValueError>(calls, "conv2d_stride_0", "[conv2d] stride is 0", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3, 3, 3}), {0, {}});
  });
  add_bad<ValueError>(calls, "conv2d_negative_padding", "[conv2d] padding is negative", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3, 3, 3}), {1, {1, -1, 1, 1}});
  });
  add_bad<ShapeError>(calls, "linear_rank_of_x", "[linear] input 0 is (2, 3, 1, 1), expected (N, I)", [] {
    ops::linear(leaf({2, 3, 1, 1}), leaf({4, 3}), leaf({4}));
  });
  add_bad<ShapeError>(calls, "linear_features", "[linear] input 1 is (4, 5), expected (4, 3)", [] {
    ops::linear(leaf({2, 3}), leaf({4, 5}), leaf({4}));
  });
  add_bad<ShapeError>(calls, "linear_bias", "input 1 is (3), expected (4)", [] {
    ops::linear(leaf({2, 3}), leaf({4, 3}), leaf({3}));
  });
}

void add_bad_elementwise(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "add_shapes", "[add] input 1 is (2, 4), expected (2, 3)", [] {
    ops::add(leaf({2, 3}), leaf({2, 4}));
  });
  add_bad<ShapeError>(calls, "add_does_not_broadcast", "[add] input 1 is (1), expected (2, 3)", [] {
    ops::add(leaf({2, 3}), leaf({1}));
  });
  add_bad<DtypeError>(calls, "add_integers", "[add] input 0 is int32, expected float32 or float64", [] {
    ops::add(int32_zeros({2, 3}), int32_zeros({2, 3}));
  });
  add_bad<DtypeError>(calls, "relu_integers", "[relu] input 0 is int32", [] { ops::relu(int32_zeros({2, 3})); });
  add_bad<ShapeError>(calls, "add_bias_rank", "[add_bias] input 0 is (2, 3, 4), expected (N, C, H, W) or (N, C)", [] {
    ops::add_bias(leaf({2, 3, 4}), leaf({3}));
  });
  add_bad<ShapeError>(calls, "add_bias_size", "[add_bias] input 1 is (4), expected (3)", [] {
    ops::add_bias(leaf({2, 3}), leaf({4}));
  });
  add_bad<ValueError>(calls, "pad_channels_negative", "[pad_channels] -1 and 0 channels, expected none negative", [] {
    ops::pad_channels(leaf({2, 3}), -1, 0);
  });
  add_bad<ShapeError>(calls, "pad_channels_rank", "[pad_channels] input 0 is (3), expected",
                      [] { ops::pad_channels(leaf({3}), 1, 0); });
  add_bad<ValueError>(calls, "dropout_of_all", "[dropout] probability is 1, expected at least 0 and below 1", [] {
    ops::dropout(leaf({2, 3}), 1, std::make_shared<Generator>());
  });
  add_bad<ValueError>(calls, "dropout_negative", "[dropout] probability is -0.5", [] {
    ops::dropout(leaf({2, 3}), -0.5, std::make_shared<Generator>());
  });
  add_bad<ValueError>(calls, "dropout_nan", "[dropout] probability is nan", [] {
    ops::dropout(leaf({2, 3}), std::nan(""), std::make_shared<Generator>());
  });
  add_bad<ValueError>(calls, "dropout_without_generator", "[dropout] needs a generator", [] {
    ops::dropout(leaf({2, 3}), 0.5, nullptr);
  });
}

void add_bad_concat_and_split(std::vector<BadCall>& calls) {
  add_bad<ValueError>(calls, "concat_of_nothing", "[concat] needs at least one input", [] { ops::concat({}); });
  add_bad<ShapeError>(calls, "concat_sizes", "[concat] input 1 is (8, 16, 4, 4), expected (8, *, 8, 8)", [] {
    ops::concat(std::vector{leaf({8, 3, 8, 8}), leaf({8, 16, 4, 4})});
  });
  add_bad<ShapeError>(calls, "concat_ranks", "[concat] input 1 is (8, 3), expected (8, *, 1, 1)", [] {
    ops::concat(std::vector{leaf({8, 3, 1, 1}), leaf({8, 3})});
  });
  add_bad<ShapeError>(calls, "concat_rank_1", "[concat] input 0 is (8), expected (N, C, H, W) or (N, C)", [] {
    ops::concat(std::vector{leaf({8}), leaf({8})});
  });
  add_bad<ValueError>(calls, "split_into_nothing", "[split] needs at least one part", [] {
    ops::split(leaf({2, 3}), {});
  });
  add_bad<ShapeError>(calls, "split_sum", "[split] input 0 is (2, 3), expected 4 channels to part", [] {
    ops::split(leaf({2, 3}), std::vector<std::int64_t>{1, 3});
  });
  add_bad<ShapeError>(calls, "split_empty_part", "[split] a part of 0 channels, expected at least 1", [] {
    ops::split(leaf({2, 3}), std::vector<std::int64_t>{0, 3});
  });
  add_bad<ShapeError>(calls, "split_rank_1", "[split] input 0 is (3)",
                      [] { ops::split(leaf({3}), std::vector<std::int64_t>{1}); });
}

void add_bad_pools(std::vector<BadCall>& calls) {
  add_bad<ValueError>(calls, "avg_pool2d_kernel_0", "[avg_pool2d] kernel 0", [] {
    ops::avg_pool2d(leaf({2, 3, 5, 5}), 0, 1);
  });
  add_bad<ValueError>(calls, "avg_pool2d_stride_0", "[avg_pool2d] kernel 2, stride 0", [] {
    ops::avg_pool2d(leaf({2, 3, 5, 5}), 2, 0);
  });
  add_bad<ShapeError>(calls, "avg_pool2d_window_too_large", "[avg_pool2d] input 0 is (2, 3, 5, 4), expected at least 5",
                      [] {
                        ops::avg_pool2d(leaf({2, 3, 5, 4}), 5, 1);
                      });
  add_bad<ShapeError>(calls, "avg_pool2d_rank", "[avg_pool2d] input 0 is (2, 3), expected (N, C, H, W)", [] {
    ops::avg_pool2d(leaf({2, 3}), 1, 1);
  });
  add_bad<ValueError>(calls, "max_pool2d_padding_too_large", "[max_pool2d] kernel 3, stride 1, padding 2", [] {
    ops::max_pool2d(leaf({2, 3, 5, 5}), 3, 1, 2);
  });
  add_bad<ValueError>(calls, "max_pool2d_negative_padding", "[max_pool2d] kernel 3, stride 1, padding -1", [] {
    ops::max_pool2d(leaf({2, 3, 5, 5}), 3, 1, -1);
  });
  add_bad<ShapeError>(calls, "max_pool2d_window_too_large", "[max_pool2d] input 0 is (2, 3, 1, 2)", [] {
    ops::max_pool2d(leaf({2, 3, 1, 2}), 4, 1, 1);
  });
  add_bad<ShapeError>(calls, "global_avg_pool_rank", "[global_avg_pool] input 0 is (2, 3), expected (N, C, H, W)", [] {
    ops::global_avg_pool(leaf({2, 3}));
  });
}

void add_bad_couple(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "couple_shapes", "[couple] input 1 is (2, 4), expected (2, 3)", [] {
    ops::couple(leaf({2, 3}), leaf({2, 4}));
  });
  add_bad<ValueError>(calls, "couple_negative_grid", "[couple] grid is -1, expected 0 to 23 for float32", [] {
    ops::couple(leaf({2, 3}), leaf({2, 3}), -1);
  });
  add_bad<ValueError>(calls, "couple_grid_finer_than_float32", "[couple] grid is 24, expected 0 to 23 for float32", [] {
    ops::couple(leaf({2, 3}), leaf({2, 3}), 24);
  });
  add_bad<ValueError>(calls, "couple_grid_finer_than_float64", "[couple] grid is 53, expected 0 to 52 for float64", [] {
    ops::couple(leaf({2, 3}, Dtype::Float64), leaf({2, 3}, Dtype::Float64), 53);
  });
  add_bad<RangeError>(calls, "couple_leaves_the_range", "leaves the range below 2^8", [] {
    ops::couple(filled({2, 3}, 128), filled({2, 3}, 128), 16);
  });
  add_bad<ValueError>(calls, "couple_of_a_stream_off_the_grid",
                      "[couple] input 0 is not on the grid 2^-4: it holds 0.3", [] {
                        ops::couple(filled({2, 3}, 0.3), filled({2, 3}, 1), 4);
                      });
  add_bad<RangeError>(calls, "couple_nan", "[couple] a value of magnitude", [] {
    ops::couple(filled({2, 3}, 1), filled({2, 3}, std::nan("")), 16);
  });
  add_bad<ValueError>(calls, "round_to_grid_negative_grid", "[round_to_grid] grid is -1", [] {
    ops::round_to_grid(leaf({2, 3}), -1);
  });
  add_bad<RangeError>(calls, "round_to_grid_infinity", "[round_to_grid] a value of magnitude", [] {
    ops::round_to_grid(filled({2, 3}, -std::numeric_limits<double>::infinity()), 4);
  });
}

/// batch_norm of x with parameters and running statistics of these sizes and types.
void call_batch_norm(const Shape& x, std::int64_t parameters, const ops::RunningStatistics& running) {
  ops::batch_norm(leaf(x), leaf({parameters}), leaf({parameters}), running, {});
}

void add_bad_batch_norm(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "batch_norm_rank", "[batch_norm] input 0 is (2, 3, 5), expected (N, C, H, W) or (N, C)",
                      [] {
                        call_batch_norm({2, 3, 5}, 3, running_statistics(3, Dtype::Float32, device()));
                      });
  add_bad<ShapeError>(calls, "batch_norm_parameters", "[batch_norm] input 1 is (4), expected (3)", [] {
    call_batch_norm({2, 3, 5, 5}, 4, running_statistics(3, Dtype::Float32, device()));
  });
  add_bad<ShapeError>(calls, "batch_norm_statistics", "[batch_norm] running statistics are (4), expected (3)", [] {
    call_batch_norm({2, 3, 5, 5}, 3, running_statistics(4, Dtype::Float32, device()));
  });
  add_bad<DtypeError>(calls, "batch_norm_type_of_statistics", "[batch_norm] running statistics are float64", [] {
    call_batch_norm({2, 3, 5, 5}, 3, running_statistics(3, Dtype::Float64, device()));
  });
  add_bad<DeviceError>(calls, "batch_norm_device_of_statistics", "[batch_norm] running statistics are on meta", [] {
    call_batch_norm({2, 3, 5, 5}, 3, running_statistics(3, Dtype::Float32, Device::Meta));
  });
  add_bad<ValueError>(calls, "batch_norm_without_statistics", "empty tensor", [] {
    call_batch_norm({2, 3, 5, 5}, 3, {});
  });
  add_bad<ShapeError>(calls, "batch_norm_one_value",
                      "[batch_norm] input 0 is (1, 3, 1, 1), expected more than one value", [] {
                        call_batch_norm({1, 3, 1, 1}, 3, running_statistics(3, Dtype::Float32, device()));
                      });
}

Tensor label_tensor(std::vector<double> values) {
  const auto n = static_cast<std::int64_t>(values.size());
  return make_tensor({n}, values, Dtype::Int32, device());
}

void add_bad_cross_entropy(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "cross_entropy_rank", "[cross_entropy] input 0 is (2, 3, 1, 1), expected (N, K)", [] {
    ops::cross_entropy(leaf({2, 3, 1, 1}), label_tensor({0, 1}));
  });
  add_bad<ShapeError>(calls, "cross_entropy_number_of_labels", "[cross_entropy] input 1 is (3), expected (2)", [] {
    ops::cross_entropy(leaf({2, 3}), label_tensor({0, 1, 2}));
  });
  add_bad<DtypeError>(calls, "cross_entropy_type_of_labels", "[cross_entropy] labels are float32, expected int32", [] {
    ops::cross_entropy(leaf({2, 3}), leaf({2}));
  });
  add_bad<ValueError>(calls, "cross_entropy_label_too_large", "[cross_entropy] label 1 is 3, expected 0 to 2", [] {
    ops::cross_entropy(leaf({2, 3}), label_tensor({0, 3}));
  });
  add_bad<ValueError>(calls, "cross_entropy_label_negative", "[cross_entropy] label 0 is -1, expected 0 to 2", [] {
    ops::cross_entropy(leaf({2, 3}), label_tensor({-1, 2}));
  });
  add_bad<ValueError>(calls, "count_correct_label_too_large", "[count_correct] label 1 is 3, expected 0 to 2", [] {
    ops::count_correct(leaf({2, 3}), label_tensor({0, 3}));
  });
  add_bad<ValueError>(calls, "count_correct_of_nothing", "empty tensor", [] {
    ops::count_correct({}, label_tensor({0, 1}));
  });
}

std::vector<BadCall> make_bad_calls() {
  std::vector<BadCall> calls;
  add_bad_conv2d_and_linear(calls);
  add_bad_elementwise(calls);
  add_bad_concat_and_split(calls);
  add_bad_pools(calls);
  add_bad_couple(calls);
  add_bad_batch_norm(calls);
  add_bad_cross_entropy(calls);
  return calls;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const OpCase& op_case) { return out << op_case.name; }
std::ostream& operator<<(std::ostream& out, const BadCall& bad_call) { return out << bad_call.name; }

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> cases = make_cases();
  return cases;
}

const std::vector<BadCall>& bad_calls() {
  static const std::vector<BadCall> calls = make_bad_calls();
  return calls;
}

std::vector<Tensor> make_inputs(const OpCase& op_case, Dtype dtype, Device where, const Fill& replacement) {
  std::vector<Tensor> inputs;
  for (const OpInput& input : op_case.inputs) {
    Random random(20240229, inputs.size());
    const bool replaced = replacement && !input.labels;
    std::vector<double> values = (replaced ? replacement : input.fill)(input.shape.count(), random);
    for (double& value : values) value = static_cast<double>(static_cast<float>(value));
    inputs.push_back(make_tensor(input.shape, values, input.labels ? Dtype::Int32 : dtype, where));
    if (input.gradient) inputs.back().requires_grad();
  }
  return inputs;
}

}  // namespace palimpsest::test
