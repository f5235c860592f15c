// Every op, through every case of op_cases.hpp: forward against naive references, gradients against finite differences,
// float32 against float64, threads, accumulation.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/add.hpp>
#include "tests/support/op_support.hpp"

namespace palimpsest::test {
namespace {

/// Sets the number of threads for as long as it lives.
class Threads {
 public:
  explicit Threads(int threads) : before_(thread_count()) { set_thread_count(threads); }
  ~Threads() { set_thread_count(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

bool rounds(const OpCase& op_case) { return op_case.straight_through != nullptr; }

INSTANTIATE_TEST_SUITE_P(Ops, OpTest, ::testing::ValuesIn(op_cases()), case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Ops, SmoothOpTest, ::testing::ValuesIn(cases_where(std::not_fn(rounds))), case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Ops, RoundingOpTest, ::testing::ValuesIn(cases_where(rounds)), case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Ops, IntegerOpTest, ::testing::ValuesIn(cases_where([](const OpCase& op_case) {
                           return op_case.exact_on_integers;
                         })),
                         case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Ops, SeveralInputsOpTest, ::testing::ValuesIn(cases_where([](const OpCase& op_case) {
                           return op_case.inputs.size() > 1;
                         })),
                         case_name<OpCase>);

TEST_P(OpTest, ForwardMatchesNaiveReference) {
  const std::vector<Tensor> inputs = make_inputs(GetParam(), Dtype::Float64);
  std::vector<Array> arrays;
  for (const Tensor& input : inputs) {
    arrays.push_back({input.shape(), {}});
    if (input.dtype() == Dtype::Int32) {
      for (const std::int32_t label : input.to_vector<std::int32_t>()) arrays.back().values.push_back(label);
    } else {
      arrays.back().values = input.to_vector<double>();
    }
  }
  const std::vector<Array> expected = GetParam().reference(arrays);
  const std::vector<Tensor> outputs = GetParam().run(inputs);
  ASSERT_EQ(outputs.size(), expected.size());
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    SCOPED_TRACE(o);
    EXPECT_EQ(outputs[o].shape(), expected[o].shape);
    expect_close(outputs[o].to_vector<double>(), expected[o].values, 1e-12);
  }
}

TEST_P(SmoothOpTest, GradientsMatchFiniteDifferences) {
  const auto reduced = [](std::span<const Tensor> inputs) {
    const std::vector<Tensor> outputs = GetParam().run(inputs);
    return outputs.size() == 1 ? outputs[0] : loss_of(outputs);
  };
  const std::vector<Tensor> inputs = make_inputs(GetParam(), Dtype::Float64);
  std::int64_t largest = 0;
  for (const Tensor& input : inputs) largest = std::max(largest, input.shape().count());
  GradcheckOptions options;
  options.max_elements = largest > 5000 ? 16 : 100;
  if (emulated()) options.max_elements = 4;
  const Threads one(1);  // thousands of small forwards
  const GradcheckResult result = gradcheck(reduced, inputs, options);
  EXPECT_TRUE(result.passed) << result.describe();
}

TEST_P(RoundingOpTest, GradientsPassStraightThroughRounding) {
  const auto inputs = [] { return make_inputs(GetParam(), Dtype::Float32); };
  expect_same_bits(run_step<float>(GetParam().run, inputs()).gradients,
                   run_step<float>(GetParam().straight_through, inputs()).gradients, "the gradient of input");
}

TEST_P(OpTest, Float32AgreesWithFloat64) {
  const OpOutcome<float> single = run_case<float>(GetParam());
  const OpOutcome<double> expected = run_case<double>(GetParam());
  expect_close(single.outputs, expected.outputs, GetParam().float32_tolerance);
  expect_close(single.gradients, expected.gradients, GetParam().float32_tolerance);
}

TEST_P(IntegerOpTest, Float32IsExact) {
  const OpOutcome<float> single = run_case<float>(GetParam(), integers, integers);
  const OpOutcome<double> expected = run_case<double>(GetParam(), integers, integers);
  expect_same_bits(in_double(single.outputs), expected.outputs, "output");
  expect_same_bits(in_double(single.gradients), expected.gradients, "the gradient of input");
}

template <class T>
void expect_same_bits_for_any_number_of_threads(const OpCase& op_case) {
  const auto run_with = [&](int threads) {
    const Threads scope(threads);
    return run_case<T>(op_case);
  };
  const OpOutcome<T> expected = run_with(1);
  for (const int threads : {2, 3}) {
    SCOPED_TRACE(threads);
    expect_same_bits(run_with(threads), expected);
  }
}

TEST_P(OpTest, GivesTheSameBitsForAnyNumberOfThreads) {
  expect_same_bits_for_any_number_of_threads<float>(GetParam());
  expect_same_bits_for_any_number_of_threads<double>(GetParam());
}

template <class T>
std::vector<std::vector<T>> sums(std::vector<std::vector<T>> a, const std::vector<std::vector<T>>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t k = 0; k < a[i].size(); ++k) a[i][k] += b[i][k];
  }
  return a;
}

TEST_P(OpTest, GradientsOfTwoStepsAddUpExactly) {
  const auto step = [](std::span<const Tensor> inputs, std::uint64_t seed) {
    loss_of(GetParam().run(inputs), seed).backward();
    return gradients_of<float>(inputs);
  };
  const auto inputs = make_inputs(GetParam(), Dtype::Float32);
  const auto first = step(inputs, 1);
  const auto both = step(inputs, 2);
  expect_same_bits(both, sums(first, step(make_inputs(GetParam(), Dtype::Float32), 2)), "the gradient of input");
}

TEST_P(OpTest, GradientsOfTwoUsesInOneStepAddUp) {
  const auto inputs = make_inputs(GetParam(), Dtype::Float64);
  ops::add(loss_of(GetParam().run(inputs), 1), loss_of(GetParam().run(inputs), 2)).backward();
  const auto gradients_for = [](std::uint64_t seed) {
    const auto fresh = make_inputs(GetParam(), Dtype::Float64);
    loss_of(GetParam().run(fresh), seed).backward();
    return gradients_of<double>(fresh);
  };
  expect_close(gradients_of<double>(inputs), sums(gradients_for(1), gradients_for(2)), 1e-12);
}

/// The sum of an input with weights, for every input that wants a gradient.
Tensor loss_of_inputs(std::span<const Tensor> inputs) {
  std::vector<Tensor> wanting;
  for (const Tensor& input : inputs) {
    if (input.requires_grad_on()) wanting.push_back(input);
  }
  return loss_of(wanting, 9, integers);
}

TEST_P(OpTest, GradientsAddToThoseOfOtherReadersInEitherOrder) {
  for (const bool op_first : {true, false}) {
    SCOPED_TRACE(op_first ? "the op's node comes first" : "the other reader's node comes first");
    const auto inputs = make_inputs(GetParam(), Dtype::Float64);
    const Tensor early = op_first ? loss_of(GetParam().run(inputs)) : loss_of_inputs(inputs);
    const Tensor late = op_first ? loss_of_inputs(inputs) : loss_of(GetParam().run(inputs));
    ops::add(early, late).backward();
    const auto others = make_inputs(GetParam(), Dtype::Float64);
    loss_of_inputs(others).backward();
    expect_close(gradients_of<double>(inputs),
                 sums(run_case<double>(GetParam()).gradients, gradients_of<double>(others)), 1e-12);
  }
}

}  // namespace
}  // namespace palimpsest::test
