// The checker of gradients itself.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/dropout.hpp>
#include "tests/support/op_support.hpp"

namespace palimpsest::test {
namespace {

/// x * x, whose gradient is off by `error` in the last element.
class Square : public Op {
 public:
  explicit Square(double error) : error_(error) {}
  std::string_view name() const override { return "square"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {.inputs = bits(0)}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }
  void forward(ForwardContext& io) override {
    std::vector<double> values = on_host(io.input(0));
    for (double& value : values) value *= value;
    store(values, io.output());
  }
  void backward(BackwardContext& io) override {
    std::vector<double> gradient = on_host(io.grad_output());
    const std::vector<double> x = on_host(io.input(0));
    for (std::size_t i = 0; i < x.size(); ++i) gradient[i] *= 2 * x[i];
    gradient.back() *= 1 + error_;
    store(gradient, io.grad_input(0).view);
  }

 private:
  static std::vector<double> on_host(const View& view) {
    std::vector<double> values(static_cast<std::size_t>(view.shape.count()));
    copy_bytes(values.data(), Device::Cpu, view.data, view.device, values.size() * sizeof(double));
    return values;
  }
  static void store(const std::vector<double>& values, const View& view) {
    copy_bytes(view.data, view.device, values.data(), Device::Cpu, values.size() * sizeof(double));
  }

  double error_;
};

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

Tensor some_values() { return from_vector<double>({2, 2, 1, 2}, {1, 2, 2, 4, 3, 4, 6, 8}).requires_grad(); }

GradcheckResult check_square(double error, const GradcheckOptions& options = {}) {
  const auto square = [=](std::span<const Tensor> in) {
    return apply_single(std::make_unique<Square>(error), {in[0]});
  };
  return gradcheck(square, std::vector{some_values()}, options);
}

TEST(GradcheckTest, TellsARightGradientFromOneThatIsSlightlyOff) {
  EXPECT_TRUE(check_square(0).passed);
  EXPECT_LT(check_square(0).worst_error, 1e-9);
  const GradcheckResult off = check_square(1e-5);
  EXPECT_FALSE(off.passed);
  EXPECT_EQ(off.input, 0U);
  EXPECT_EQ(off.element, 7);
  EXPECT_NEAR(off.worst_error, 1e-5, 1e-8);
  EXPECT_NEAR(off.gradient, off.difference, std::abs(2e-5 * off.difference));
  EXPECT_NE(off.describe().find("element 7 of input 0"), std::string::npos) << off.describe();
}

TEST(GradcheckTest, DoesNotAcceptNan) {
  EXPECT_FALSE(check_square(nan).passed);
  EXPECT_TRUE(std::isinf(check_square(nan).worst_error));
}

TEST(GradcheckTest, ErrorBelowTheToleranceOfTheCallerIsAccepted) {
  GradcheckOptions options;
  options.tolerance = 1e-3;
  EXPECT_TRUE(check_square(1e-5, options).passed);
}

TEST(GradcheckTest, LeavesTheInputsAlone) {
  const Tensor x = some_values();
  gradcheck([](std::span<const Tensor> in) { return ops::relu(in[0]); }, std::vector{x});
  EXPECT_EQ(x.to_vector<double>(), some_values().to_vector<double>());
  EXPECT_FALSE(x.grad());
}

TEST(GradcheckTest, RefusesWhatItCannotCheck) {
  const TensorFunction relu = [](std::span<const Tensor> in) { return ops::relu(in[0]); };
  const TensorFunction detached = [](std::span<const Tensor> in) { return in[0].detach(); };
  const auto generator = std::make_shared<Generator>();
  const TensorFunction random = [=](std::span<const Tensor> in) { return ops::dropout(in[0], 0.5, generator); };
  const Tensor single = zeros({3}).requires_grad();
  const Tensor meta = Tensor::zeros({3}, Dtype::Float64, meta_device()).requires_grad();
  const Tensor unwanted = zeros({3}, Dtype::Float64);
  EXPECT_THROW(gradcheck(relu, std::vector{unwanted}), ValueError);
  EXPECT_THROW(gradcheck(random, std::vector{some_values()}), ValueError);
  EXPECT_THROW(gradcheck(relu, std::vector{single}), DtypeError);
  EXPECT_THROW(gradcheck(detached, std::vector{some_values()}), StateError);
  EXPECT_THROW(gradcheck(relu, std::vector{meta}), DeviceError);
  EXPECT_THROW(gradcheck(relu, std::vector{Tensor()}), ValueError);
}

TEST(WeightedSumTest, RefusesWeightsThatDoNotFit) {
  const Tensor x = some_values();
  EXPECT_THROW(weighted_sum(x, zeros({8}, Dtype::Float64)), ShapeError);
  EXPECT_THROW(weighted_sum(x, zeros(x.shape())), DtypeError);
  EXPECT_THROW(weighted_sum(x, Tensor::zeros(x.shape(), Dtype::Float64, meta_device())), DeviceError);
  EXPECT_THROW(weighted_sum(x, Tensor()), ValueError);
}

}  // namespace
}  // namespace palimpsest::test
