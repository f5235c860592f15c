// The CPU kernels of batch normalisation against naive references in double: awkward shapes, buffers of
// the exact size, aliasing and accumulation.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include <palimpsest/core/types.hpp>
#include <palimpsest/ops/kernels/activation.hpp>
#include <palimpsest/ops/kernels/add.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>
#include "tests/ops/kernels_support.hpp"

namespace palimpsest::kernels {
namespace {

TYPED_TEST_SUITE(KernelsTest, FloatTypes);

template <class T>
struct BatchNormCase {
  BatchNormCase(Rows shape, bool relu, bool coarse = false) : shape(shape) {
    const auto values = [&](std::int64_t count, std::uint64_t stream) {
      return coarse ? coarse_values<T>(count, stream) : random_values<T>(count, stream);
    };
    x = values(shape.count(), 1);
    dy = random_values<T>(shape.count(), 2);
    mean = values(shape.channels, 3);
    gamma = values(shape.channels, 4);
    beta = values(shape.channels, 5);
    rstd = random_values<T>(shape.channels, 6, 0.5, 2);
    if (coarse) std::fill(rstd.begin(), rstd.end(), T{2});
    sum_dy = random_values<T>(shape.channels, 7);
    sum_dy_xhat = random_values<T>(shape.channels, 8);
    before = random_values<T>(shape.count(), 9);
    n = {mean.data(), rstd.data(), gamma.data(), beta.data(), relu};
  }

  double xhat(std::int64_t i) const {
    const std::int64_t c = i % shape.channels;
    return (static_cast<double>(x[at(i)]) - mean[at(c)]) * rstd[at(c)];
  }

  double normalized(std::int64_t i) const {
    const std::int64_t c = i % shape.channels;
    const double y = gamma[at(c)] * xhat(i) + beta[at(c)];
    return n.relu ? std::max(0.0, y) : y;
  }

  std::vector<T> forward(Isa isa) const {
    std::vector<T> y(x.size());
    CALL_ON(isa, batch_norm_forward<T>(shape.rows, shape.channels, x.data(), n, y.data()));
    return y;
  }

  /// dy where the kernel's own forward lets it pass.
  std::vector<double> masked(Isa isa) const {
    const std::vector<T> y = forward(isa);
    std::vector<double> result = to_double(dy);
    for (std::size_t i = 0; n.relu && i < y.size(); ++i) result[i] = y[i] > 0 ? result[i] : 0;
    return result;
  }

  Rows shape;
  std::vector<T> x, dy, mean, gamma, beta, rstd, sum_dy, sum_dy_xhat, before;
  Normalization<T> n;
};

/// mean and biased variance of each channel, one after the other.
std::vector<double> naive_statistics(Rows shape, const std::vector<double>& x) {
  std::vector<double> result(at(2 * shape.channels));
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    long double sum = 0;
    for (std::int64_t row = 0; row < shape.rows; ++row) sum += x[at(row * shape.channels + c)];
    const long double mean = sum / static_cast<long double>(shape.rows);
    long double squares = 0;
    for (std::int64_t row = 0; row < shape.rows; ++row) {
      const long double deviation = x[at(row * shape.channels + c)] - mean;
      squares += deviation * deviation;
    }
    result[at(c)] = static_cast<double>(mean);
    result[at(shape.channels + c)] = static_cast<double>(squares / static_cast<long double>(shape.rows));
  }
  return result;
}

template <class T>
std::vector<T> run_statistics(Isa isa, Rows shape, const std::vector<T>& x) {
  std::vector<T> result(at(2 * shape.channels));
  std::vector<double> workspace(batch_norm_workspace(Device::Cpu, shape.rows, shape.channels) / sizeof(double), NAN);
  CALL_ON(isa, batch_norm_statistics<T>(shape.rows, shape.channels, x.data(), result.data(),
                                        result.data() + shape.channels, workspace.data()));
  return result;
}

TYPED_TEST(KernelsTest, BatchNormStatistics) {
  using T = TypeParam;
  for (const Rows shape : awkward_rows) {
    const std::vector<T> x = random_values<T>(shape.count(), 1);
    expect_on_every_isa<T>(naive_statistics(shape, to_double(x)), sizeof(T) == 4 ? 3e-7 : 1e-14,
                           [&](Isa isa) { return run_statistics(isa, shape, x); });
  }
}

TYPED_TEST(KernelsTest, BatchNormVarianceIsAccurateFarFromZero) {
  using T = TypeParam;
  for (const bool outlier : {false, true}) {
    const Rows shape = {20011, 12};
    std::vector<T> x = random_values<T>(shape.count(), 1, 99, 101);
    for (std::size_t i = 0; outlier && i < 12; ++i) x[i] = 0;
    const std::vector<double> expected = naive_statistics(shape, to_double(x));
    on_every_isa<T>([&](Isa isa) { return run_statistics(isa, shape, x); },
                    [&](const std::vector<T>& actual) {
                      for (std::size_t c = 12; c < 24; ++c) {
                        EXPECT_NEAR(actual[c] / expected[c], 1, sizeof(T) == 4 ? 1e-6 : 1e-12);
                      }
                    });
  }
}

TYPED_TEST(KernelsTest, BatchNormVarianceOfAConstantIsZero) {
  using T = TypeParam;
  const Rows shape = {777, 5};
  std::vector<double> expected(10, 0.0);
  std::fill(expected.begin(), expected.begin() + 5, static_cast<double>(static_cast<T>(0.1)));
  expect_on_every_isa<T>(expected, 0, [&](Isa isa) {
    return run_statistics(isa, shape, std::vector<T>(at(shape.count()), static_cast<T>(0.1)));
  });
}

TYPED_TEST(KernelsTest, BatchNormForward) {
  using T = TypeParam;
  for (const Rows shape : awkward_rows) {
    for (const bool relu : {false, true}) {
      const BatchNormCase<T> the(shape, relu);
      std::vector<double> expected(the.x.size());
      for (std::int64_t i = 0; i < shape.count(); ++i) expected[at(i)] = the.normalized(i);
      expect_on_every_isa<T>(expected, rounding<T>, [&](Isa isa) { return the.forward(isa); });
      expect_on_every_isa<T>(expected, rounding<T>, [&](Isa isa) {
        std::vector<T> y = the.x;
        CALL_ON(isa, batch_norm_forward<T>(shape.rows, shape.channels, y.data(), the.n, y.data()));
        EXPECT_TRUE(same_bits(y, the.forward(isa)));
        return y;
      });
    }
  }
}

TYPED_TEST(KernelsTest, BatchNormForwardKeepsNaN) {
  using T = TypeParam;
  BatchNormCase<T> the({40, 3}, true);
  the.x[50] = std::numeric_limits<T>::quiet_NaN();
  on_every_isa<T>([&](Isa isa) { return the.forward(isa); },
                  [&](const std::vector<T>& y) { EXPECT_TRUE(std::isnan(y[50])); });
}

// Coarse values put many results at exactly 0, where mask and forward must agree.
TYPED_TEST(KernelsTest, BatchNormReduceGradient) {
  using T = TypeParam;
  for (const Rows shape : awkward_rows) {
    for (const bool relu : {false, true}) {
      const BatchNormCase<T> the(shape, relu, shape.rows % 2 == 1);
      for (const Isa isa : machine_isas()) {
        const std::vector<double> masked = the.masked(isa);
        std::vector<double> expected(at(2 * shape.channels));
        for (std::int64_t i = 0; i < shape.count(); ++i) {
          expected[at(i % shape.channels)] += masked[at(i)];
          expected[at(shape.channels + i % shape.channels)] += masked[at(i)] * the.xhat(i);
        }
        std::vector<T> actual(expected.size());
        std::vector<double> workspace(batch_norm_workspace(Device::Cpu, shape.rows, shape.channels) / sizeof(double),
                                      NAN);
        CALL_ON(isa, batch_norm_reduce_gradient<T>(shape.rows, shape.channels, the.x.data(), the.dy.data(), the.n,
                                                   actual.data(), actual.data() + shape.channels, workspace.data()));
        expect_close(actual, expected, 10 * rounding<T>);
      }
    }
  }
}

TYPED_TEST(KernelsTest, BatchNormReduceGradientIsTheSameForAnyNumberOfThreads) {
  using T = TypeParam;
  const Rows shape = {3001, 37};
  const BatchNormCase<T> the(shape, true);
  on_every_isa<T>(
      [&](Isa isa) {
        std::vector<T> sums(at(2 * shape.channels));
        std::vector<double> workspace(batch_norm_workspace(Device::Cpu, shape.rows, shape.channels) / sizeof(double),
                                      NAN);
        CALL_ON(isa, batch_norm_reduce_gradient<T>(shape.rows, shape.channels, the.x.data(), the.dy.data(), the.n,
                                                   sums.data(), sums.data() + shape.channels, workspace.data()));
        return sums;
      },
      [](const std::vector<T>&) {});
}

/// Runs a gradient kernel `run(isa, dy, dx, accumulate)` on its own, accumulating, and with dx = dy.
template <class T, class Run>
void expect_gradient(const BatchNormCase<T>& the, const std::function<double(std::int64_t, double)>& gradient,
                     const Run& run) {
  for (const Isa isa : machine_isas()) {
    const std::vector<double> masked = the.masked(isa);
    std::vector<double> expected(masked.size());
    for (std::size_t i = 0; i < masked.size(); ++i) expected[i] = gradient(static_cast<std::int64_t>(i), masked[i]);
    std::vector<T> dx(the.x.size());
    run(isa, the.dy.data(), dx.data(), false);
    expect_close(dx, expected, 2 * rounding<T>);
    std::vector<T> aliased = the.dy;
    run(isa, aliased.data(), aliased.data(), false);
    EXPECT_TRUE(same_bits(dx, aliased));
    std::vector<T> sum = the.before;
    run(isa, the.dy.data(), sum.data(), true);
    for (std::size_t i = 0; i < masked.size(); ++i) expected[i] += the.before[i];
    expect_close(sum, expected, 2 * rounding<T>);
  }
}

TYPED_TEST(KernelsTest, BatchNormInputGradient) {
  using T = TypeParam;
  for (const Rows shape : awkward_rows) {
    for (const bool relu : {false, true}) {
      const BatchNormCase<T> the(shape, relu, shape.rows % 2 == 1);
      const auto gradient = [&](std::int64_t i, double dy) {
        const std::size_t c = at(i % shape.channels);
        const double rows = static_cast<double>(shape.rows);
        return the.gamma[c] * the.rstd[c] * (dy - the.sum_dy[c] / rows - the.xhat(i) * the.sum_dy_xhat[c] / rows);
      };
      expect_gradient<T>(the, gradient, [&](Isa isa, const T* dy, T* dx, bool accumulate) {
        CALL_ON(isa, batch_norm_input_gradient<T>(shape.rows, shape.channels, the.x.data(), dy, the.n,
                                                  the.sum_dy.data(), the.sum_dy_xhat.data(), dx, accumulate));
      });
    }
  }
}

TYPED_TEST(KernelsTest, BatchNormAffineInputGradient) {
  using T = TypeParam;
  for (const Rows shape : awkward_rows) {
    for (const bool relu : {false, true}) {
      const BatchNormCase<T> the(shape, relu, shape.rows % 2 == 1);
      const auto gradient = [&](std::int64_t i, double dy) {
        const std::size_t c = at(i % shape.channels);
        return static_cast<double>(the.gamma[c]) * the.rstd[c] * dy;
      };
      expect_gradient<T>(the, gradient, [&](Isa isa, const T* dy, T* dx, bool accumulate) {
        CALL_ON(isa, batch_norm_affine_input_gradient<T>(shape.rows, shape.channels, relu ? the.x.data() : nullptr, dy,
                                                         the.n, dx, accumulate));
      });
    }
  }
}

// Outputs too large for the caches take another path to memory than those written in place.
TYPED_TEST(KernelsTest, LargeOutputsAreWrittenAsSmallOnesAre) {
  using T = TypeParam;
  const Rows shape = {static_cast<std::int64_t>((std::size_t{33} << 20) / sizeof(T)) / 24 + 1, 24};
  const BatchNormCase<T> the(shape, true);
  const std::int64_t count = shape.count();
  const std::size_t bytes = at(count) * sizeof(T);
  std::vector<T> in_place;
  std::vector<T> apart(at(count) + 64 / sizeof(T) + 1);
  void* start = apart.data();
  std::size_t space = apart.size() * sizeof(T);
  T* const aligned = static_cast<T*>(std::align(64, bytes, start, space));
  for (const Isa isa : machine_isas()) {
    for (T* const out : {aligned, aligned + 1}) {
      CALL_ON(isa, batch_norm_forward<T>(shape.rows, shape.channels, the.x.data(), the.n, out));
      in_place = the.x;
      CALL_ON(isa, batch_norm_forward<T>(shape.rows, shape.channels, in_place.data(), the.n, in_place.data()));
      EXPECT_EQ(std::memcmp(out, in_place.data(), bytes), 0);
      CALL_ON(isa, batch_norm_input_gradient<T>(shape.rows, shape.channels, the.x.data(), the.dy.data(), the.n,
                                                the.sum_dy.data(), the.sum_dy_xhat.data(), out, false));
      in_place = the.dy;
      CALL_ON(isa, batch_norm_input_gradient<T>(shape.rows, shape.channels, the.x.data(), in_place.data(), the.n,
                                                the.sum_dy.data(), the.sum_dy_xhat.data(), in_place.data(), false));
      EXPECT_EQ(std::memcmp(out, in_place.data(), bytes), 0);
      CALL_ON(isa, activate<Relu, T>({}, count, the.x.data(), out));
      in_place = the.x;
      CALL_ON(isa, activate<Relu, T>({}, count, in_place.data(), in_place.data()));
      EXPECT_EQ(std::memcmp(out, in_place.data(), bytes), 0);
      CALL_ON(isa, activate_backward<Relu, T>({}, count, the.x.data(), the.dy.data(), out, false));
      in_place = the.dy;
      CALL_ON(isa, activate_backward<Relu, T>({}, count, the.x.data(), in_place.data(), in_place.data(), false));
      EXPECT_EQ(std::memcmp(out, in_place.data(), bytes), 0);
      CALL_ON(isa, add<T>(count, the.x.data(), the.dy.data(), out));
      in_place = the.x;
      CALL_ON(isa, accumulate<T>(count, the.dy.data(), in_place.data()));
      EXPECT_EQ(std::memcmp(out, in_place.data(), bytes), 0);
    }
  }
}

}  // namespace
}  // namespace palimpsest::kernels
