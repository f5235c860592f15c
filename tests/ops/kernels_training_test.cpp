// The CPU kernels of dropout, the loss and the optimiser against naive references in double: awkward shapes, buffers of
// the exact size, aliasing and accumulation.

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <palimpsest/ops/kernels/cross_entropy.hpp>
#include <palimpsest/ops/kernels/dropout.hpp>
#include <palimpsest/ops/kernels/mse_loss.hpp>
#include <palimpsest/ops/kernels/sgd.hpp>
#include <palimpsest/ops/kernels/tensor_list.hpp>
#include "tests/ops/kernels_support.hpp"

namespace palimpsest::kernels {
namespace {

TYPED_TEST_SUITE(KernelsTest, FloatTypes);

TYPED_TEST(KernelsTest, Dropout) {
  using T = TypeParam;
  const std::uint64_t seed = 0x123456789abcdef0;
  const std::uint64_t offset = 0xfffffffe;  // the counter's low word overflows on the way
  for (const std::int64_t count : awkward_counts) {
    for (const double probability : {0.0, 0.1, 0.7}) {
      const std::vector<T> x = random_values<T>(count, 1);
      std::vector<double> expected(x.size());
      for (std::int64_t i = 0; i < count; ++i) {
        const std::uint32_t word = philox(seed, offset + static_cast<std::uint64_t>(i) / 4)[at(i % 4)];
        expected[at(i)] = unit_float(word) >= probability ? x[at(i)] / (1 - probability) : 0;
      }
      const auto run = [&](Isa isa, const T* from, T* to, bool accumulate) {
        CALL_ON(isa, dropout<T>(count, from, to, probability, seed, offset, accumulate));
      };
      expect_backward<T>(expected, rounding<T>,
                         [&](Isa isa, T* y, bool accumulate) { run(isa, x.data(), y, accumulate); });
      expect_on_every_isa<T>(expected, rounding<T>, [&](Isa isa) {
        std::vector<T> y = x;
        run(isa, y.data(), y.data(), false);
        return y;
      });
    }
  }
}

// At the probability of an element's own number it is still kept, and dropped at the next larger one.
TYPED_TEST(KernelsTest, DropoutAtTheBoundary) {
  using T = TypeParam;
  const double probability = unit_float(philox(5, 0)[2]);
  const std::vector<T> x(3, T{1});
  for (const Isa isa : machine_isas()) {
    std::vector<T> y(3);
    CALL_ON(isa, dropout<T>(3, x.data(), y.data(), probability, 5, 0, false));
    EXPECT_GT(y[2], 0);
    CALL_ON(isa, dropout<T>(3, x.data(), y.data(), std::nextafter(probability, 1.0), 5, 0, false));
    EXPECT_EQ(y[2], 0);
  }
}

TYPED_TEST(KernelsTest, CrossEntropy) {
  using T = TypeParam;
  for (const auto& [n, classes] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {1, 10}, {37, 10}, {3, 1000}, {1031, 3}}) {
    const std::int64_t rows = n, width = classes;
    for (const auto& [range, smoothed] :  // exp(500) is infinite in float
         {std::pair{1.0, 0.0}, std::pair{500.0, 0.0}, std::pair{3.0, 0.1}, std::pair{500.0, 1.0}}) {
      const double smoothing = smoothed;
      const std::vector<T> logits = random_values<T>(n * classes, 1, -range, range);
      std::vector<std::int32_t> labels;
      for (std::int64_t row = 0; row < n; ++row) labels.push_back(static_cast<std::int32_t>(row * 7 % classes));
      double loss = 0;
      std::int64_t correct = 0;
      std::vector<double> gradient(logits.size());
      for (std::int64_t row = 0; row < n; ++row) {
        const T* x = logits.data() + row * classes;
        const auto expected = [&](std::int64_t c) {
          return (c == labels[at(row)] ? 1 - smoothed : 0) + smoothed / static_cast<double>(width);
        };
        const double largest = *std::max_element(x, x + classes);
        double sum = 0;
        for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(x[c] - largest);
        for (std::int64_t c = 0; c < classes; ++c) {
          loss += expected(c) * (std::log(sum) + largest - x[c]) / static_cast<double>(n);
        }
        correct += std::max_element(x, x + classes) - x == labels[at(row)] ? 1 : 0;
        for (std::int64_t c = 0; c < classes; ++c) {
          const double softmax = std::exp(x[c] - largest) / sum;
          gradient[at(row * classes + c)] = 1.5 * (softmax - expected(c)) / static_cast<double>(n);
        }
      }
      expect_on_every_isa<T>({loss}, rounding<T>, [&](Isa isa) {
        std::vector<T> result(1);
        CALL_ON(isa, cross_entropy_forward<T>(rows, width, logits.data(), labels.data(), nothing_ignored, smoothing,
                                              result.data()));
        std::int64_t counted = -1;
        CALL_ON(isa, argmax_correct<T>(rows, width, logits.data(), labels.data(), nothing_ignored, &counted));
        EXPECT_EQ(counted, correct);
        return result;
      });
      expect_backward<T>(gradient, rounding<T>, [&](Isa isa, T* result, bool accumulate) {
        const T upstream = T{1.5};
        CALL_ON(isa, cross_entropy_backward<T>(rows, width, logits.data(), labels.data(), nothing_ignored, smoothing,
                                               &upstream, result, accumulate, nullptr));
      });
    }
  }
}

TYPED_TEST(KernelsTest, MeanSquaredError) {
  using T = TypeParam;
  for (const std::int64_t count : {1, 31, 32, 33, 8192, 100003}) {
    const std::vector<T> x = random_values<T>(count, 1);
    const std::vector<T> target = random_values<T>(count, 2);
    double loss = 0;
    std::vector<double> gradient;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double error = double{x[i]} - double{target[i]};
      loss += error * error / static_cast<double>(count);
      gradient.push_back(1.5 * 2 * error / static_cast<double>(count));
    }
    expect_on_every_isa<T>({loss}, rounding<T>, [&](Isa isa) {
      std::vector<T> result(1);
      CALL_ON(isa, mse_forward<T>(count, x.data(), target.data(), nullptr, result.data()));
      return result;
    });
    expect_backward<T>(gradient, rounding<T>, [&](Isa isa, T* result, bool accumulate) {
      const T upstream = T{1.5};
      CALL_ON(isa, mse_backward<T>(count, x.data(), target.data(), &upstream, result, accumulate));
    });
  }
}

/// Runs a kernel over tensors of awkward sizes and returns all elements.
template <class T, class Run>
std::vector<T> over_a_list(const Run& run) {
  std::vector<std::vector<T>> tensors;
  std::vector<ListedTensor<T>> list;
  for (const std::int64_t count : {1, 12, 0, 8192, 5, 700003, 3}) {
    tensors.push_back(random_values<T>(count, 10 + tensors.size(), -2, 2));
    list.push_back({count, tensors.back().data()});
  }
  run(static_cast<std::int64_t>(list.size()), list.data());
  std::vector<T> all;
  for (const std::vector<T>& tensor : tensors) all.insert(all.end(), tensor.begin(), tensor.end());
  return all;
}

TYPED_TEST(KernelsTest, ListsOfTensors) {
  using T = TypeParam;
  const std::vector<double> before = to_double(over_a_list<T>([](std::int64_t, const ListedTensor<T>*) {}));
  double squares = 0;
  std::vector<double> scaled, clamped;
  for (const double value : before) {
    squares += value * value;
    scaled.push_back(0.75 * value);
    clamped.push_back(std::max(-1.0, std::min(1.0, value)));
  }
  expect_on_every_isa<T>(scaled, rounding<T>, [](Isa isa) {
    return over_a_list<T>([&](auto count, const auto* list) { CALL_ON(isa, scale_all<T>(count, list, 0.75)); });
  });
  expect_on_every_isa<T>(clamped, 0, [](Isa isa) {
    return over_a_list<T>([&](auto count, const auto* list) { CALL_ON(isa, clamp_all<T>(count, list, 1)); });
  });
  std::vector<double> sums;
  for (const Isa isa : machine_isas()) {
    over_a_list<T>([&](auto count, const auto* list) {
      double sum = NAN;
      CALL_ON(isa, sum_of_squares<T>(count, list, nullptr, &sum));
      sums.push_back(sum);
    });
    EXPECT_NEAR(sums.back() / squares, 1, 1e-12);
    EXPECT_EQ(sums.back(), sums.front()) << "the order of the sum does not depend on the instruction set";
  }
}

TYPED_TEST(KernelsTest, ClampingLeavesNaN) {
  using T = TypeParam;
  std::vector<T> values = {T(NAN), T(INFINITY), T(-INFINITY), T{-0.5}};
  const ListedTensor<T> list{4, values.data()};
  for (const Isa isa : machine_isas()) {
    CALL_ON(isa, clamp_all<T>(1, &list, 2));
    EXPECT_TRUE(std::isnan(values[0]));
    EXPECT_EQ(values[1], 2);
    EXPECT_EQ(values[2], -2);
    EXPECT_EQ(values[3], T{-0.5});
  }
}

/// One tensor's step as PyTorch documents it.
void naive_sgd(double& p, double g, double* v, double weight_decay, bool first_step, const SgdOptions& spec) {
  g += weight_decay * p;
  if (v != nullptr) {
    *v = first_step ? g : spec.momentum * *v + g;
    g = spec.nesterov ? g + spec.momentum * *v : *v;
  }
  p -= spec.learning_rate * g;
}

TYPED_TEST(KernelsTest, Sgd) {
  using T = TypeParam;
  const std::vector<std::int64_t> counts = {1, 12, 0, 8192, 5, 100003, 3};
  for (const SgdOptions spec : {SgdOptions{0.1, 0, false}, SgdOptions{0.1, 0.9, false}, SgdOptions{0.1, 0.9, true}}) {
    for (const bool first_step : {true, false}) {
      std::vector<std::vector<T>> parameters, gradients, velocities;
      std::vector<double> expected;
      const auto decay = [](std::size_t i) { return i % 2 == 0 ? 0.01 : 0.0; };
      for (std::size_t i = 0; i < counts.size(); ++i) {
        parameters.push_back(random_values<T>(counts[i], 10 + i));
        gradients.push_back(random_values<T>(counts[i], 30 + i));
        velocities.push_back(first_step ? std::vector<T>(at(counts[i]), T(NAN)) : random_values<T>(counts[i], 50 + i));
        for (std::size_t j = 0; j < parameters[i].size(); ++j) {
          double p = parameters[i][j];
          double v = velocities[i][j];
          naive_sgd(p, gradients[i][j], spec.momentum > 0 ? &v : nullptr, decay(i), first_step, spec);
          expected.push_back(p);
          if (spec.momentum > 0) expected.push_back(v);
        }
      }
      expect_on_every_isa<T>(expected, rounding<T>, [&](Isa isa) {
        std::vector<std::vector<T>> p = parameters, v = velocities;
        std::vector<SgdTensor<T>> list;
        for (std::size_t i = 0; i < counts.size(); ++i) {
          list.push_back({counts[i], p[i].data(), gradients[i].data(), spec.momentum > 0 ? v[i].data() : nullptr,
                          decay(i), first_step});
          if (counts[i] == 0) list.back().velocity = nullptr;
        }
        CALL_ON(isa, sgd_step<T>(static_cast<std::int64_t>(list.size()), list.data(), spec));
        std::vector<T> result;
        for (std::size_t i = 0; i < counts.size(); ++i) {
          for (std::size_t j = 0; j < p[i].size(); ++j) {
            result.push_back(p[i][j]);
            if (spec.momentum > 0) result.push_back(v[i][j]);
          }
        }
        return result;
      });
    }
  }
}

}  // namespace
}  // namespace palimpsest::kernels
