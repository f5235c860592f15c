#pragma once

// Tools of the tests that go through all op cases: running a case, and comparing what comes of it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/memory/recipes.hpp>
#include <palimpsest/ops/add.hpp>
#include "tests/support/op_cases.hpp"

namespace palimpsest::test {

/// The results of a case: its outputs and the gradients of its inputs (empty where none was asked for).
template <class T>
struct OpOutcome {
  std::vector<std::vector<T>> outputs;
  std::vector<std::vector<T>> gradients;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
void expect_same_bits(const std::vector<std::vector<T>>& actual, const std::vector<std::vector<T>>& expected,
                      const char* what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(same_bits(actual[i], expected[i])) << what << ' ' << i << " has other bits";
  }
}

template <class T>
void expect_same_bits(const OpOutcome<T>& actual, const OpOutcome<T>& expected) {
  expect_same_bits(actual.outputs, expected.outputs, "output");
  expect_same_bits(actual.gradients, expected.gradients, "the gradient of input");
}

/// Compares element by element, with a tolerance relative to the largest magnitude in the tensor.
template <class T>
void expect_close(const std::vector<T>& actual, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_LE(std::abs(static_cast<double>(actual[i]) - expected[i]), tolerance * largest)
        << "element " << i << " is " << actual[i] << ", expected " << expected[i];
  }
}

template <class T>
void expect_close(const std::vector<std::vector<T>>& actual, const std::vector<std::vector<double>>& expected,
                  double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    SCOPED_TRACE(i);
    expect_close(actual[i], expected[i], tolerance);
  }
}

template <class T>
std::vector<T> converted(const std::vector<double>& values) {
  std::vector<T> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), [](double value) { return static_cast<T>(value); });
  return result;
}

/// Weights that a tensor is summed with: the gradient that flows into it. The same numbers in float32 and float64.
inline Tensor make_weights(const Tensor& like, std::uint64_t seed, const Fill& fill) {
  Random random(seed, 77);
  const std::vector<float> values = converted<float>(fill(like.shape().count(), random));
  if (like.dtype() == Dtype::Float32) return Tensor::from_vector(like.shape(), values, like.device());
  return Tensor::from_vector(like.shape(), std::vector<double>(values.begin(), values.end()), like.device());
}

inline Tensor loss_of(std::span<const Tensor> outputs, std::uint64_t seed = 0, const Fill& fill = uniform) {
  Tensor loss;
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    const Tensor sum = weighted_sum(outputs[o], make_weights(outputs[o], 1000 * seed + o, fill));
    loss = loss ? ops::add(loss, sum) : sum;
  }
  return loss;
}

template <class T>
std::vector<std::vector<T>> values_of(std::span<const Tensor> tensors) {
  std::vector<std::vector<T>> values;
  for (const Tensor& tensor : tensors) values.push_back(tensor ? tensor.to_vector<T>() : std::vector<T>{});
  return values;
}

template <class T>
std::vector<std::vector<T>> gradients_of(std::span<const Tensor> inputs) {
  std::vector<Tensor> gradients;
  for (const Tensor& input : inputs) gradients.push_back(input.grad());
  return values_of<T>(gradients);
}

/// One step: forward, a weighted sum, backward.
template <class T>
OpOutcome<T> run_step(const OpFunction& function, std::span<const Tensor> inputs, const Fill& weights = uniform) {
  OpOutcome<T> outcome;
  const std::vector<Tensor> outputs = function(inputs);
  outcome.outputs = values_of<T>(outputs);
  loss_of(outputs, 0, weights).backward();
  outcome.gradients = gradients_of<T>(inputs);
  return outcome;
}

template <class T>
OpOutcome<T> run_case(const OpCase& op_case, const Fill& inputs = nullptr, const Fill& weights = uniform,
                      Device where = device()) {
  return run_step<T>(op_case.run, make_inputs(op_case, dtype_of<T>, where, inputs), weights);
}

template <class T>
std::vector<std::vector<double>> in_double(const std::vector<std::vector<T>>& values) {
  std::vector<std::vector<double>> result;
  for (const std::vector<T>& part : values) result.emplace_back(part.begin(), part.end());
  return result;
}

template <class Case>
std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

template <class Predicate>
std::vector<OpCase> cases_where(const Predicate& predicate) {
  std::vector<OpCase> chosen;
  std::copy_if(op_cases().begin(), op_cases().end(), std::back_inserter(chosen), predicate);
  return chosen;
}

/// The suites that go through all cases, or through those of a kind: spread over files, instantiated in op_test.cpp.
class OpTest : public ::testing::TestWithParam<OpCase> {};

class SmoothOpTest : public OpTest {};
class RoundingOpTest : public OpTest {};
class IntegerOpTest : public OpTest {};
class SeveralInputsOpTest : public OpTest {};

/// Gives up whatever ops make, to be computed again by backward.
class ReplayEverything : public Policy {
 public:
  std::string_view name() const override { return "replay-everything"; }
  RecipePtr decide(const Value&, const Op&, const BlockInfo&) const override { return memory::replay(); }
};

}  // namespace palimpsest::test
