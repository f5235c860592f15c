// Cases of what training adds: dropout, batch normalisation, the loss.

#include <cmath>
#include <memory>
#include <optional>

#include <palimpsest/core/generator.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/mse_loss.hpp>
#include "tests/support/op_case_support.hpp"

namespace palimpsest::test {
namespace {

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

Array naive_batch_norm(Arrays in, const ops::BatchNormOptions& spec) {
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

OpCase batch_norm_case(const std::string& name, const Shape& x, const ops::BatchNormOptions& spec) {
  OpCase made;
  made.name = concat_text("batch_norm_", spec.training ? "train_" : "eval_", spec.relu ? "relu_" : "", name);
  made.inputs = {{x, scaled(2)}, {{x.c()}}, {{x.c()}}};
  // The results keep away from the kink of the ReLU.
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
      ops::BatchNormOptions spec;
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

/// The loss of one pixel, or row, from its logits.
double naive_pixel_loss(const std::vector<double>& logits, std::size_t label, double smoothing) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double exponentials = 0;
  for (const double logit : logits) exponentials += std::exp(logit - largest);
  double loss = 0;
  for (std::size_t c = 0; c < logits.size(); ++c) {
    const double expected = (c == label ? 1 - smoothing : 0) + smoothing / static_cast<double>(logits.size());
    loss += expected * (std::log(exponentials) + largest - logits[c]);
  }
  return loss;
}

Array naive_cross_entropy(const Array& logits, const Array& labels, const ops::CrossEntropyOptions& options) {
  double sum = 0;
  double counted = 0;
  std::size_t pixel = 0;
  map(array_of({logits.shape.n(), 1, logits.shape.h(), logits.shape.w()}),
      [&](double, std::int64_t n, std::int64_t, std::int64_t h, std::int64_t w) {
        const double label = labels.values[pixel++];
        if (options.ignored && label == *options.ignored) return 0;
        std::vector<double> own;
        for (std::int64_t k = 0; k < logits.shape.c(); ++k) own.push_back(logits.at(n, k, h, w));
        sum += naive_pixel_loss(own, static_cast<std::size_t>(label), options.label_smoothing);
        return ++counted, 0;
      });
  return {{}, {sum / std::max(1.0, counted)}};
}

void add_cross_entropy_cases(std::vector<OpCase>& cases) {
  const auto add_shapes = [&](const std::string& name, const Shape& logits, double scale, const OpInput& targets,
                              const ops::CrossEntropyOptions& options) {
    OpCase made;
    made.name = "cross_entropy_" + name;
    made.inputs = {{logits, scaled(scale)}, targets};
    made.run = [=](Tensors in) { return std::vector{ops::cross_entropy(in[0], in[1], options)}; };
    made.reference = [=](Arrays in) { return std::vector{naive_cross_entropy(in[0], in[1], options)}; };
    cases.push_back(made);
  };
  const auto add = [&](const std::string& name, std::int64_t n, std::int64_t classes, double scale) {
    add_shapes(name, {n, classes}, scale, labels({n}, classes), {});
  };
  add_shapes("pixels", {2, 5, 3, 7}, 3, labels({2, 3, 7}, 5), {});
  add_shapes("one_pixel", {1, 2, 1, 1}, 1, labels({1, 1, 1}, 2), {});
  add_shapes("pixels_without_a_class", {3, 4, 5, 2}, 3, labels({3, 5, 2}, 4), {.ignored = 0});
  add_shapes("pixels_without_a_border", {2, 3, 11, 13}, 3, labels({2, 11, 13}, 4), {.ignored = 3});
  add_shapes("all_ignored", {2, 1, 2, 3}, 3, labels({2, 2, 3}, 1), {.ignored = 0});
  add_shapes("rows_ignored", {17, 3}, 3, labels({17}, 3), {.ignored = 2});
  add_shapes("smoothed", {5, 7}, 3, labels({5}, 7), {.label_smoothing = 0.1});
  add_shapes("smoothed_large_logits", {17, 10}, 300, labels({17}, 10), {.label_smoothing = 0.3});
  add_shapes("smoothed_pixels_without_a_class", {3, 4, 5, 2}, 3, labels({3, 5, 2}, 4),
             {.ignored = 0, .label_smoothing = 0.1});
  add_shapes("smoothed_to_nothing_else", {3, 5}, 3, labels({3}, 5), {.label_smoothing = 1});
  add_shapes("smoothed_one_class", {2, 1}, 3, labels({2}, 1), {.label_smoothing = 0.1});
  add_shapes("many_pixels", {3, 7, 31, 29}, 3, labels({3, 31, 29}, 7), {});
  add("one_class", 1, 1, 1);
  add("batch_1", 1, 2, 1);
  add("primes", 5, 7, 3);
  add("100_classes", 3, 100, 3);
  add("large_logits", 17, 10, 300);
  add("huge_logits", 3, 5, 1e4);
  add("large", 131, 67, 3);
}

// Mean squared error.

Array naive_mse_loss(Arrays in) {
  double sum = 0;
  for (std::size_t i = 0; i < in[0].values.size(); ++i) sum += std::pow(in[0].values[i] - in[1].values[i], 2);
  return {{}, {sum / static_cast<double>(in[0].values.size())}};
}

void add_mse_loss_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, bool gradient_of_target) {
    OpCase made;
    made.name = "mse_loss_" + name;
    made.inputs = {{shape}, {shape, uniform, gradient_of_target}};
    made.run = [](Tensors in) { return std::vector{ops::mse_loss(in[0], in[1])}; };
    made.reference = [](Arrays in) { return std::vector{naive_mse_loss(in)}; };
    cases.push_back(made);
  };
  add("scalar", {}, false);
  add("one_element", {1, 1, 1, 1}, true);
  add("rows", {7, 13}, false);
  add("image", {2, 3, 5, 7}, true);
  add("large", {5, 17, 29, 31}, false);
}

// Calls that must be refused.

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
    call_batch_norm({2, 3, 5, 5}, 3, running_statistics(3, Dtype::Float32, meta_device()));
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
  add_bad<ShapeError>(calls, "cross_entropy_rank",
                      "[cross_entropy] input 0 is (2, 3, 1), expected (N, K) or (N, K, H, W)", [] {
                        ops::cross_entropy(leaf({2, 3, 1}), label_tensor({0, 1}));
                      });
  add_bad<ShapeError>(calls, "cross_entropy_number_of_labels", "[cross_entropy] input 1 is (3), expected (2)", [] {
    ops::cross_entropy(leaf({2, 3}), label_tensor({0, 1, 2}));
  });
  add_bad<ShapeError>(calls, "cross_entropy_labels_of_pixels", "[cross_entropy] input 1 is (2), expected (2, 4, 5)",
                      [] {
                        ops::cross_entropy(leaf({2, 3, 4, 5}), label_tensor({0, 1}));
                      });
  add_bad<ValueError>(calls, "cross_entropy_label_not_ignored", "[cross_entropy] label 1 is 4, expected 0 to 2", [] {
    ops::cross_entropy(leaf({2, 3}), label_tensor({3, 4}), {.ignored = 3});
  });
  add_bad<ValueError>(calls, "cross_entropy_smoothing", "[cross_entropy] label smoothing is 1.5, expected 0 to 1", [] {
    ops::cross_entropy(leaf({2, 3}), label_tensor({0, 1}), {.label_smoothing = 1.5});
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

void add_bad_mse_loss(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "mse_loss_shapes", "[mse_loss] input 1 is (2), expected (2, 1)", [] {
    ops::mse_loss(leaf({2, 1}), leaf({2}));
  });
  add_bad<DtypeError>(calls, "mse_loss_types", "[mse_loss] input 1 is float64, expected float32", [] {
    ops::mse_loss(leaf({2, 3}), leaf({2, 3}, Dtype::Float64));
  });
  add_bad<DtypeError>(calls, "mse_loss_integers", "[mse_loss] input 0 is int32", [] {
    ops::mse_loss(int32_zeros({2, 3}), int32_zeros({2, 3}));
  });
}

}  // namespace

void add_training_cases(std::vector<OpCase>& cases) {
  add_dropout_cases(cases);
  add_batch_norm_cases(cases);
  add_cross_entropy_cases(cases);
  add_mse_loss_cases(cases);
}

void add_bad_training(std::vector<BadCall>& calls) {
  add_bad_batch_norm(calls);
  add_bad_cross_entropy(calls);
  add_bad_mse_loss(calls);
}

}  // namespace palimpsest::test
