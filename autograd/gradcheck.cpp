#include <palimpsest/autograd/gradcheck.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <sstream>
#include <vector>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/elementwise.hpp>
#include <palimpsest/core/philox.hpp>

namespace palimpsest {
namespace {

/// The elements of a view on the host, in the order in which they lie in memory.
template <class T>
std::vector<T> host_copy(const ConstView& view) {
  std::vector<T> values(static_cast<std::size_t>(view.shape.count()));
  copy_bytes(values.data(), Device::Cpu, view.data, view.device, values.size() * sizeof(T));
  return values;
}

/// Computed on the host whatever the device: it is small, and the same for all of them.
class WeightedSum : public Op {
 public:
  explicit WeightedSum(const Tensor& weights) : weights_(weights) {}

  std::string_view name() const override { return "weighted_sum"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    if (inputs[0].shape != weights_.shape()) {
      throw ShapeError(
          concat_text("[weighted_sum] input 0 is ", inputs[0].shape, ", expected ", weights_.shape(), " like weights"));
    }
    if (inputs[0].dtype != weights_.dtype()) {
      throw DtypeError(
          concat_text("[weighted_sum] input 0 is ", inputs[0].dtype, ", expected ", weights_.dtype(), " like weights"));
    }
    return {{{}, inputs[0].dtype}};
  }

  void forward(ForwardContext& io) override {
    if (is_meta(io.device())) return;
    with_float(io.output().dtype, name(), [&](auto zero) {
      using T = decltype(zero);
      const std::vector<T> x = host_copy<T>(io.input(0));
      const std::vector<T> weights = host_copy<T>(weights_.view());
      const T sum = static_cast<T>(std::inner_product(x.begin(), x.end(), weights.begin(), 0.0));
      copy_bytes(io.output().data, io.device(), &sum, Device::Cpu, sizeof sum);
    });
  }

  void backward(BackwardContext& io) override {
    const GradientTarget dx = io.grad_input(0);
    const std::size_t bytes = static_cast<std::size_t>(dx.view.shape.count()) * size_of(dx.view.dtype);
    const Buffer product = io.workspace(bytes);
    if (is_meta(io.device())) return;
    with_float(dx.view.dtype, name(), [&](auto zero) {
      using T = decltype(zero);
      const T dy = host_copy<T>(io.grad_output())[0];
      std::vector<T> scaled = host_copy<T>(weights_.view());
      for (T& weight : scaled) weight *= dy;
      copy_bytes(product.data(), io.device(), scaled.data(), Device::Cpu, bytes);
    });
    if (dx.accumulate) {
      accumulate(dx.view.data, product.data(), dx.view.shape.count(), dx.view.dtype, io.device());
    } else {
      copy_bytes(dx.view.data, io.device(), product.data(), io.device(), bytes);
    }
  }

 private:
  Tensor weights_;
};

std::vector<double> random_weights(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> weights(static_cast<std::size_t>(count));
  for (double& weight : weights) weight = 2 * random.uniform() - 1;
  return weights;
}

/// Equal but for rounding: where an op is recorded it may be part of another, which adds in another order.
bool same_values(const std::vector<double>& a, const std::vector<double>& b) {
  constexpr double rounding = 1e-10;
  double largest = 0;
  for (const double value : a) largest = std::max(largest, std::abs(value));
  const auto close = [&](double x, double y) { return std::abs(x - y) <= rounding * largest; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), close);
}

/// One run of gradcheck: the function, copies of its inputs that can be moved about, and the weighting of its result.
class Check {
 public:
  Check(const TensorFunction& function, std::span<const Tensor> inputs, const GradcheckOptions& options)
      : function_(function), options_(options) {
    for (std::size_t i = 0; i < inputs.size(); ++i) copy_input(i, inputs[i]);
    const auto wants = [](const Tensor& input) { return input.requires_grad_on(); };
    if (std::none_of(inputs_.begin(), inputs_.end(), wants)) {
      throw ValueError("gradcheck: no input wants a gradient");
    }
  }

  GradcheckResult run() {
    const std::vector<std::vector<double>> gradients = run_backward();
    const NoGrad no_grad;
    if (!same_values(values_, evaluate())) throw ValueError("gradcheck: two calls of the function gave other results");
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].requires_grad_on()) compare(i, gradients[i]);
    }
    result_.passed = result_.worst_error <= options_.tolerance;
    return result_;
  }

 private:
  void copy_input(std::size_t i, const Tensor& input) {
    Tensor copy = Tensor::empty(input.shape(), input.dtype(), input.device());
    copy.assign(input);
    if (input.requires_grad_on()) {
      if (input.dtype() != Dtype::Float64) {
        throw DtypeError(concat_text("gradcheck: input ", i, " is ", input.dtype(), ", expected float64"));
      }
      copy.requires_grad();
    }
    inputs_.push_back(copy);
  }

  std::vector<std::vector<double>> run_backward() {
    const Tensor y = function_(inputs_);
    values_ = y.to_vector<double>();
    weights_ = random_weights(y.shape().count(), options_.seed);
    weighted_sum(y, Tensor::from_vector(y.shape(), weights_, y.device())).backward();
    std::vector<std::vector<double>> gradients;
    for (const Tensor& input : inputs_) {
      const Tensor gradient = input.grad();
      gradients.push_back(gradient ? gradient.to_vector<double>()
                                   : std::vector<double>(static_cast<std::size_t>(input.shape().count())));
    }
    return gradients;
  }

  std::vector<double> evaluate() const { return function_(inputs_).to_vector<double>(); }

  void compare(std::size_t i, const std::vector<double>& gradient) {
    const std::int64_t count = inputs_[i].shape().count();
    const bool all = options_.max_elements <= 0 || count <= options_.max_elements;
    Random random(options_.seed, i + 1);
    for (std::int64_t tried = 0; tried < (all ? count : options_.max_elements); ++tried) {
      const auto element = all ? tried : static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(count)));
      note(i, element, gradient[static_cast<std::size_t>(element)], difference_quotient(i, element));
    }
  }

  double difference_quotient(std::size_t i, std::int64_t element) {
    const std::vector<double> before = inputs_[i].to_vector<double>();
    const auto value_at = [&](double offset) {
      std::vector<double> moved = before;
      moved[static_cast<std::size_t>(element)] += offset;
      inputs_[i].assign(Tensor::from_vector(inputs_[i].shape(), moved, inputs_[i].device()));
      return evaluate();
    };
    const double h = options_.step;
    const std::vector<double> near_right = value_at(h);
    const std::vector<double> near_left = value_at(-h);
    const std::vector<double> far_right = value_at(2 * h);
    const std::vector<double> far_left = value_at(-2 * h);
    inputs_[i].assign(Tensor::from_vector(inputs_[i].shape(), before, inputs_[i].device()));
    // Subtracted before they are added up: what does not depend on the element then cancels without rounding.
    double sum = 0;
    for (std::size_t k = 0; k < weights_.size(); ++k) {
      sum += weights_[k] * (8 * (near_right[k] - near_left[k]) - (far_right[k] - far_left[k]));
    }
    return sum / (12 * h);
  }

  void note(std::size_t i, std::int64_t element, double gradient, double difference) {
    const double scale = std::max({std::abs(gradient), std::abs(difference), options_.floor});
    double error = std::abs(gradient - difference) / scale;
    if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
    if (error < result_.worst_error || !std::isfinite(result_.worst_error)) return;
    result_.worst_error = error;
    result_.input = i;
    result_.element = element;
    result_.gradient = gradient;
    result_.difference = difference;
  }

  const TensorFunction& function_;
  const GradcheckOptions& options_;
  std::vector<Tensor> inputs_;
  std::vector<double> values_;   // of the function at the inputs
  std::vector<double> weights_;  // of the result's elements, in logical order
  GradcheckResult result_;
};

}  // namespace

std::string GradcheckResult::describe() const {
  std::ostringstream text;
  text.precision(12);
  text << (passed ? "gradients agree" : "gradients differ") << "; at worst by " << worst_error << " in element "
       << element << " of input " << input << ": backward gives " << gradient << ", differences " << difference;
  return text.str();
}

GradcheckResult gradcheck(const TensorFunction& function, std::span<const Tensor> inputs,
                          const GradcheckOptions& options) {
  return Check(function, inputs, options).run();
}

Tensor weighted_sum(const Tensor& x, const Tensor& weights) {
  if (x && weights && x.device() != weights.device()) {
    throw DeviceError(
        concat_text("[weighted_sum] weights are on ", weights.device(), ", expected ", x.device(), " like input 0"));
  }
  return apply_single(std::make_unique<WeightedSum>(weights), {x});
}

}  // namespace palimpsest
