#pragma once

// Tools of the families of op cases (tests/ops/op_cases_*.cpp): kinds of inputs, tensors of any type, the loops of
// naive references, and calls that must be refused.

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/ops/batch_norm.hpp>
#include "tests/support/op_cases.hpp"

namespace palimpsest::test {

using Arrays = std::span<const Array>;
using Tensors = std::span<const Tensor>;

inline Fill scaled(double factor, Fill fill = uniform) {
  return [=](std::int64_t count, Random& random) {
    std::vector<double> values = fill(count, random);
    for (double& value : values) value *= factor;
    return values;
  };
}

/// Multiples of `step`, from -range to range.
inline Fill multiples_of(double step, double range = 4) {
  return [=](std::int64_t count, Random& random) {
    std::vector<double> values = uniform(count, random);
    for (double& value : values) value = std::round(value * range / step) * step;
    return values;
  };
}

/// From 0.5 to 1, of either sign.
inline std::vector<double> away_from_zero(std::int64_t count, Random& random) {
  std::vector<double> values = uniform(count, random);
  for (double& value : values) value = std::copysign((1 + std::abs(value)) / 2, value);
  return values;
}

/// Whole numbers in [0, classes).
inline OpInput labels(const Shape& shape, std::int64_t classes) {
  const Fill fill = [=](std::int64_t count, Random& random) {
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) value = static_cast<double>(random.below(static_cast<std::uint64_t>(classes)));
    return values;
  };
  return {shape, fill, false, true};
}

template <class T>
std::vector<T> converted(const std::vector<double>& values) {
  std::vector<T> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), [](double value) { return static_cast<T>(value); });
  return result;
}

inline Tensor make_tensor(const Shape& shape, const std::vector<double>& values, Dtype dtype, Device device) {
  if (dtype == Dtype::Int32) return Tensor::from_vector(shape, converted<std::int32_t>(values), device);
  if (dtype == Dtype::Float64) return Tensor::from_vector(shape, values, device);
  return Tensor::from_vector(shape, converted<float>(values), device);
}

inline Array array_of(const Shape& shape) {
  return {shape, std::vector<double>(static_cast<std::size_t>(shape.count()))};
}

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

inline Array sum_of(const Array& a, const Array& b) {
  Array sum = a;
  for (std::size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += b.values[i];
  return sum;
}

/// Fresh ones for every call, of no special values.
inline ops::RunningStatistics running_statistics(std::int64_t channels, Dtype dtype, Device device) {
  const Dtype floating = dtype == Dtype::Int32 ? Dtype::Float32 : dtype;
  std::vector<double> means;
  std::vector<double> variances;
  for (std::int64_t c = 0; c < channels; ++c) {
    means.push_back(static_cast<double>(c % 5) / 8 - 0.25);
    variances.push_back(static_cast<double>(c % 3) / 4 + 0.5);
  }
  return {make_tensor({channels}, means, floating, device), make_tensor({channels}, variances, floating, device)};
}

// --- Calls that must be refused --------------------------------------------------------------------------------------

// Inputs want gradients, so that what was recorded before the refusal must go, too.

inline Tensor leaf(const Shape& shape, Dtype dtype = Dtype::Float32) { return zeros(shape, dtype).requires_grad(); }

inline Tensor filled(const Shape& shape, double value) {
  const std::vector<double> values(static_cast<std::size_t>(shape.count()), value);
  return make_tensor(shape, values, Dtype::Float32, device()).requires_grad();
}

inline Tensor int32_zeros(const Shape& shape) { return zeros(shape, Dtype::Int32); }

template <class Expected>
void add_bad(std::vector<BadCall>& calls, const std::string& name, const std::string& message,
             std::function<void()> call) {
  const auto has_type = [](const std::exception& thrown) { return dynamic_cast<const Expected*>(&thrown) != nullptr; };
  calls.push_back({name, std::move(call), has_type, message});
}

// --- The families, in the order of the list --------------------------------------------------------------------------

void add_convolution_cases(std::vector<OpCase>& cases);
void add_activation_cases(std::vector<OpCase>& cases);
void add_channel_cases(std::vector<OpCase>& cases);
void add_pool_cases(std::vector<OpCase>& cases);
void add_couple_cases(std::vector<OpCase>& cases);
void add_training_cases(std::vector<OpCase>& cases);
void add_fused_cases(std::vector<OpCase>& cases);

void add_bad_convolutions(std::vector<BadCall>& calls);
void add_bad_activations(std::vector<BadCall>& calls);
void add_bad_channels(std::vector<BadCall>& calls);
void add_bad_pools(std::vector<BadCall>& calls);
void add_bad_couplings(std::vector<BadCall>& calls);
void add_bad_training(std::vector<BadCall>& calls);

}  // namespace palimpsest::test
