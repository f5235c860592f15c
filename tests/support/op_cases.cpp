#include "tests/support/op_cases.hpp"

#include <utility>

#include "tests/support/op_case_support.hpp"

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

std::vector<OpCase> make_cases() {
  std::vector<OpCase> cases;
  add_convolution_cases(cases);
  add_activation_cases(cases);
  add_channel_cases(cases);
  add_pool_cases(cases);
  add_couple_cases(cases);
  add_training_cases(cases);
  add_fused_cases(cases);
  return cases;
}

std::vector<BadCall> make_bad_calls() {
  std::vector<BadCall> calls;
  add_bad_convolutions(calls);
  add_bad_activations(calls);
  add_bad_channels(calls);
  add_bad_pools(calls);
  add_bad_couplings(calls);
  add_bad_training(calls);
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
