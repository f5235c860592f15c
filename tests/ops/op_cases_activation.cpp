// Cases of activations.

#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include "tests/support/op_case_support.hpp"

namespace palimpsest::test {
namespace {

using Activation = Tensor (*)(Tensor);

OpCase activation_case(const std::string& name, Activation function, double (*naive)(double), const Shape& shape) {
  OpCase made;
  made.name = name;
  made.inputs = {{shape, spaced}};
  made.run = [=](Tensors in) { return std::vector{function(in[0])}; };
  made.reference = [=](Arrays in) { return std::vector{map_values(in[0], naive)}; };
  return made;
}

Tensor steep_leaky_relu(Tensor x) { return ops::leaky_relu(std::move(x), 1.5); }
Tensor default_leaky_relu(Tensor x) { return ops::leaky_relu(std::move(x)); }

Tensor three_eighths(Tensor x) { return ops::scale(std::move(x), -0.375); }
Tensor nothing_of(Tensor x) { return ops::scale(std::move(x), 0); }

double naive_relu(double x) { return std::max(x, 0.0); }
double naive_leaky_relu(double x) { return x > 0 ? x : 0.01 * x; }
double naive_steep_leaky_relu(double x) { return x > 0 ? x : 1.5 * x; }
double naive_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double naive_tanh(double x) { return (std::exp(x) - std::exp(-x)) / (std::exp(x) + std::exp(-x)); }
double naive_gelu(double x) { return x * (1 + std::erf(x / std::sqrt(2.0))) / 2; }
double naive_silu(double x) { return x * naive_sigmoid(x); }

double naive_three_eighths(double x) { return -0.375 * x; }
double naive_nothing(double) { return 0; }

void add_smooth(std::vector<OpCase>& cases, const std::string& name, Activation function, double (*naive)(double)) {
  cases.push_back(activation_case(name + "_one_element", function, naive, {1, 1, 1, 1}));
  cases.push_back(activation_case(name + "_image", function, naive, {2, 3, 5, 7}));
  OpCase large = activation_case(name + "_large", function, naive, {5, 17, 29, 31});
  large.inputs[0].fill = scaled(8);  // far into both tails
  cases.push_back(large);
}

}  // namespace

void add_activation_cases(std::vector<OpCase>& cases) {
  const std::vector<std::pair<std::string, Shape>> shapes = {{"scalar", {}},          {"one_element", {1, 1, 1, 1}},
                                                             {"vector", {13}},        {"rank_3", {2, 3, 5}},
                                                             {"image", {2, 3, 5, 7}}, {"large", {5, 17, 29, 31}}};
  for (const auto& [suffix, shape] : shapes) {
    cases.push_back(activation_case("relu_" + suffix, ops::relu, naive_relu, shape));
    cases.back().exact_on_integers = true;
  }
  for (const auto& [suffix, shape] : shapes) {
    cases.push_back(activation_case("scale_" + suffix, three_eighths, naive_three_eighths, shape));
    cases.back().exact_on_integers = true;
  }
  cases.push_back(activation_case("scale_by_0", nothing_of, naive_nothing, {2, 3}));
  cases.push_back(activation_case("leaky_relu_image", default_leaky_relu, naive_leaky_relu, {2, 3, 5, 7}));
  cases.push_back(activation_case("leaky_relu_steep", steep_leaky_relu, naive_steep_leaky_relu, {5, 17, 29, 31}));
  cases.back().exact_on_integers = true;
  add_smooth(cases, "sigmoid", ops::sigmoid, naive_sigmoid);
  add_smooth(cases, "tanh", ops::tanh, naive_tanh);
  add_smooth(cases, "gelu", ops::gelu, naive_gelu);
  add_smooth(cases, "silu", ops::silu, naive_silu);
}

void add_bad_activations(std::vector<BadCall>& calls) {
  const std::vector<std::pair<std::string, Activation>> functions = {
      {"relu", ops::relu},       {"leaky_relu", default_leaky_relu},
      {"sigmoid", ops::sigmoid}, {"tanh", ops::tanh},
      {"gelu", ops::gelu},       {"silu", ops::silu},
      {"scale", three_eighths}};
  for (const auto& [name, function] : functions) {
    add_bad<DtypeError>(calls, name + "_integers", "[" + name + "] input 0 is int32, expected float32 or float64",
                        [function] {
                          function(int32_zeros({2, 3}));
                        });
  }
  add_bad<ValueError>(calls, "leaky_relu_falls", "[leaky_relu] slope is -0.5, expected a finite one, at least 0", [] {
    ops::leaky_relu(leaf({2, 3}), -0.5);
  });
  add_bad<ValueError>(calls, "scale_by_nan", "[scale] factor is nan, expected a finite one", [] {
    ops::scale(leaf({2, 3}), std::nan(""));
  });
  add_bad<ValueError>(calls, "leaky_relu_nan", "[leaky_relu] slope is nan", [] {
    ops::leaky_relu(leaf({2, 3}), std::nan(""));
  });
}

}  // namespace palimpsest::test
