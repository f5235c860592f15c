// The memory-bound CPU kernels against naive references in double: awkward shapes, every instruction set of the
// machine, the same bits for any number of threads, buffers of the exact size, aliasing and accumulation.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "core/philox.hpp"
#include "ops/add_kernels.hpp"
#include "ops/batch_norm_kernels.hpp"
#include "ops/bias_kernels.hpp"
#include "ops/concat_kernels.hpp"
#include "ops/couple_kernels.hpp"
#include "ops/cross_entropy_kernels.hpp"
#include "ops/dropout_kernels.hpp"
#include "ops/pad_channels_kernels.hpp"
#include "ops/pool_kernels.hpp"
#include "ops/relu_kernels.hpp"
#include "ops/sgd_kernels.hpp"

namespace palimpsest::kernels {
namespace {

#if defined(PALIMPSEST_X86_KERNELS)
#define CALL_ON(isa, ...) \
  ((isa) == Isa::Avx512 ? avx512::__VA_ARGS__ : (isa) == Isa::Avx2 ? avx2::__VA_ARGS__ : generic::__VA_ARGS__)
#else
#define CALL_ON(isa, ...) (static_cast<void>(isa), generic::__VA_ARGS__)
#endif

std::vector<Isa> machine_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::Generic, Isa::Avx2, Isa::Avx512}) {
    if (isa <= cpu_isa()) isas.push_back(isa);
  }
  return isas;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
void expect_close(const std::vector<T>& actual, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double allowed = tolerance * (1 + std::abs(expected[i]));
    ASSERT_LE(std::abs(static_cast<double>(actual[i]) - expected[i]), allowed)
        << "element " << i << ": " << actual[i] << ", expected " << expected[i];
  }
}

/// Runs `run(isa)` on every instruction set with 1, 2 and 3 threads; the results must agree bit for bit within an
/// instruction set. Hands each instruction set's result to `check`.
template <class T, class Run, class Check>
void on_every_isa(const Run& run, const Check& check) {
  const int threads_before = thread_count();
  for (const Isa isa : machine_isas()) {
    SCOPED_TRACE(std::string(to_string(isa)));
    set_thread_count(1);
    const std::vector<T> result = run(isa);
    for (const int threads : {2, 3}) {
      set_thread_count(threads);
      ASSERT_TRUE(same_bits(result, std::vector<T>(run(isa)))) << threads << " threads give other bits than 1";
    }
    check(result);
    if (::testing::Test::HasFatalFailure()) break;
  }
  set_thread_count(threads_before);
}

template <class T, class Run>
void expect_on_every_isa(const std::vector<double>& expected, double tolerance, const Run& run) {
  on_every_isa<T>(run, [&](const std::vector<T>& result) { expect_close(result, expected, tolerance); });
}

template <class T>
std::vector<T> random_values(std::int64_t count, std::uint64_t stream, double low = -1, double high = 1) {
  Random random(20240229, stream);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& value : values) value = static_cast<T>(low + (high - low) * random.uniform());
  return values;
}

/// Multiples of 1/4 in [-1, 1]: many zeros and ties.
template <class T>
std::vector<T> coarse_values(std::int64_t count, std::uint64_t stream) {
  std::vector<T> values = random_values<T>(count, stream, -4.5, 4.5);
  for (T& value : values) value = std::round(value) / 4;
  return values;
}

template <class T>
std::vector<double> to_double(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

/// For results that are computed in T in another order than the reference.
template <class T>
constexpr double rounding = sizeof(T) == 4 ? 2e-6 : 1e-13;

struct Rows {
  std::int64_t rows;
  std::int64_t channels;
  std::int64_t count() const { return rows * channels; }
};

const std::initializer_list<Rows> awkward_rows = {{1, 1},    {1, 7},     {2, 3},     {17, 1},   {33, 12},  {100, 13},
                                                  {67, 24},  {31, 36},   {129, 204}, {1000, 5}, {64, 256}, {300, 129},
                                                  {3, 2048}, {19, 2051}, {5000, 12}, {2311, 61}};

const std::initializer_list<std::int64_t> awkward_counts = {0,  1,  2,  3,    15,   16,   17,
                                                            63, 64, 65, 1023, 8192, 8193, 100003};

template <class T>
class KernelsTest : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(KernelsTest, FloatTypes);

// Batch normalisation.

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
  std::vector<double> workspace(at(batch_norm_workspace(shape.rows, shape.channels)), NAN);
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
        std::vector<double> workspace(at(batch_norm_workspace(shape.rows, shape.channels)), NAN);
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
        std::vector<double> workspace(at(batch_norm_workspace(shape.rows, shape.channels)), NAN);
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

// Elementwise kernels.

/// Checks an elementwise kernel of two inputs, run(isa, a, b, out), on its own and with out = a and out = b.
template <class T, class Reference, class Run>
void expect_elementwise(double tolerance, const Reference& reference, const Run& run) {
  for (const std::int64_t count : awkward_counts) {
    const std::vector<T> a = coarse_values<T>(count, 1);
    const std::vector<T> b = random_values<T>(count, 2);
    std::vector<double> expected(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) expected[i] = reference(a[i], b[i]);
    expect_on_every_isa<T>(expected, tolerance, [&](Isa isa) {
      std::vector<T> out(a.size());
      run(isa, count, a.data(), b.data(), out.data());
      std::vector<T> over_a = a;
      run(isa, count, over_a.data(), b.data(), over_a.data());
      EXPECT_TRUE(same_bits(out, over_a));
      std::vector<T> over_b = b;
      run(isa, count, a.data(), over_b.data(), over_b.data());
      EXPECT_TRUE(same_bits(out, over_b));
      return out;
    });
  }
}

/// Checks an elementwise kernel of one input and what it adds to, run(isa, x, out).
template <class T, class Reference, class Run>
void expect_in_place(double tolerance, const Reference& reference, const Run& run) {
  for (const std::int64_t count : awkward_counts) {
    const std::vector<T> x = coarse_values<T>(count, 1);
    const std::vector<T> before = random_values<T>(count, 2);
    std::vector<double> expected(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) expected[i] = reference(x[i], before[i]);
    expect_on_every_isa<T>(expected, tolerance, [&](Isa isa) {
      std::vector<T> out = before;
      run(isa, count, x.data(), out.data());
      return out;
    });
  }
}

TYPED_TEST(KernelsTest, Relu) {
  using T = TypeParam;
  expect_in_place<T>(
      0, [](double x, double) { return std::max(0.0, x); },
      [](Isa isa, std::int64_t count, const T* x, T* y) { CALL_ON(isa, relu_forward<T>(count, x, y)); });
  expect_elementwise<T>(
      0, [](double y, double dy) { return y > 0 ? dy : 0; },
      [](Isa isa, std::int64_t count, const T* y, const T* dy, T* dx) {
        CALL_ON(isa, relu_backward<T>(count, y, dy, dx, false));
      });
  expect_in_place<T>(
      rounding<T>, [](double y, double before) { return before + (y > 0 ? y : 0); },
      [](Isa isa, std::int64_t count, const T* y, T* dx) { CALL_ON(isa, relu_backward<T>(count, y, y, dx, true)); });
}

TYPED_TEST(KernelsTest, ReluOfSpecialValues) {
  using T = TypeParam;
  const T infinity = std::numeric_limits<T>::infinity();
  for (const Isa isa : machine_isas()) {
    std::vector<T> x = {T{-0.0}, std::numeric_limits<T>::quiet_NaN(), infinity, -infinity,
                        std::numeric_limits<T>::denorm_min()};
    CALL_ON(isa, relu_forward<T>(5, x.data(), x.data()));
    EXPECT_FALSE(std::signbit(x[0]));
    EXPECT_TRUE(std::isnan(x[1]));
    EXPECT_EQ(x[2], infinity);
    EXPECT_EQ(x[3], 0);
    EXPECT_EQ(x[4], std::numeric_limits<T>::denorm_min());
  }
}

TYPED_TEST(KernelsTest, Sums) {
  using T = TypeParam;
  expect_elementwise<T>(
      rounding<T>, [](double a, double b) { return a + b; },
      [](Isa isa, std::int64_t count, const T* a, const T* b, T* out) { CALL_ON(isa, add<T>(count, a, b, out)); });
  expect_in_place<T>(
      rounding<T>, [](double x, double before) { return before + x; },
      [](Isa isa, std::int64_t count, const T* x, T* out) { CALL_ON(isa, accumulate<T>(count, x, out)); });
  expect_in_place<T>(
      rounding<T>, [](double x, double) { return 3 * x; },
      [](Isa isa, std::int64_t count, const T* x, T* out) { CALL_ON(isa, scale<T>(count, 3, x, out)); });
  expect_in_place<T>(
      0, [](double, double) { return 2.5; },
      [](Isa isa, std::int64_t count, const T*, T* out) { CALL_ON(isa, fill<T>(count, T{2.5}, out)); });
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
      CALL_ON(isa, relu_forward<T>(count, the.x.data(), out));
      in_place = the.x;
      CALL_ON(isa, relu_forward<T>(count, in_place.data(), in_place.data()));
      EXPECT_EQ(std::memcmp(out, in_place.data(), bytes), 0);
      CALL_ON(isa, relu_backward<T>(count, the.x.data(), the.dy.data(), out, false));
      in_place = the.dy;
      CALL_ON(isa, relu_backward<T>(count, the.x.data(), in_place.data(), in_place.data(), false));
      EXPECT_EQ(std::memcmp(out, in_place.data(), bytes), 0);
      CALL_ON(isa, add<T>(count, the.x.data(), the.dy.data(), out));
      in_place = the.x;
      CALL_ON(isa, accumulate<T>(count, the.dy.data(), in_place.data()));
      EXPECT_EQ(std::memcmp(out, in_place.data(), bytes), 0);
    }
  }
}

// Couplings.

TYPED_TEST(KernelsTest, Couple) {
  using T = TypeParam;
  expect_elementwise<T>(
      rounding<T>, [](double x, double f) { return x + f; },
      [](Isa isa, std::int64_t count, const T* x, const T* f, T* y) {
        CALL_ON(isa, couple_forward<T>(count, x, f, y));
      });
  expect_elementwise<T>(
      rounding<T>, [](double y, double f) { return y - f; },
      [](Isa isa, std::int64_t count, const T* y, const T* f, T* x) {
        CALL_ON(isa, couple_inverse<T>(count, y, f, x));
      });
  const double grid = std::ldexp(1.0, -5);
  const auto rounded = [&](double f) { return std::nearbyint(f / grid) * grid; };
  expect_elementwise<T>(
      0, [&](double x, double f) { return x + rounded(f); },
      [](Isa isa, std::int64_t count, const T* x, const T* f, T* y) {
        CALL_ON(isa, couple_forward_on_grid<T>(count, x, f, 5, T{INFINITY}, y));
      });
  expect_elementwise<T>(
      0, [&](double y, double f) { return y - rounded(f); },
      [](Isa isa, std::int64_t count, const T* y, const T* f, T* x) {
        CALL_ON(isa, couple_inverse_on_grid<T>(count, y, f, 5, x));
      });
}

TYPED_TEST(KernelsTest, RoundToGridIsRightForAllMagnitudes) {
  using T = TypeParam;
  const int digits = std::numeric_limits<T>::digits;
  std::vector<T> x = {0,
                      T{-0.0},
                      std::numeric_limits<T>::denorm_min(),
                      std::numeric_limits<T>::max(),
                      std::numeric_limits<T>::lowest(),
                      T{0.5},
                      T{-0.5},
                      T{1.5},
                      T{-1.5},
                      T{2.5}};
  Random random(7);
  for (int exponent = -30; exponent < digits + 10; ++exponent) {
    for (int i = 0; i < 40; ++i) {
      const T fraction = static_cast<T>(1 + random.uniform());
      x.push_back(std::ldexp(i % 2 == 0 ? fraction : -fraction, exponent));
      x.push_back(std::ldexp(std::round(fraction * 8) / 8, exponent));  // ties
    }
  }
  const std::int64_t count = static_cast<std::int64_t>(x.size());
  for (const int fraction_bits : {-3, 0, 12, digits - 1}) {
    const std::vector<double> exact = to_double(x);
    std::vector<double> expected;
    for (const double value : exact) {
      const bool on_grid = std::abs(value) >= std::ldexp(1.0, digits - 1 - fraction_bits);
      expected.push_back(on_grid ? value
                                 : std::ldexp(std::nearbyint(std::ldexp(value, fraction_bits)), -fraction_bits));
    }
    expect_on_every_isa<T>(expected, 0, [&](Isa isa) {
      std::vector<T> y(x.size());
      const T largest = CALL_ON(isa, round_to_grid<T>(count, x.data(), fraction_bits, T{INFINITY}, y.data()));
      EXPECT_EQ(largest, std::numeric_limits<T>::max());
      for (const T value : y) EXPECT_FALSE(value == 0 && std::signbit(value));
      return y;
    });
  }
}

TYPED_TEST(KernelsTest, CouplingOnAGridInvertsExactly) {
  using T = TypeParam;
  const std::int64_t count = 70001;
  const int fraction_bits = 12;
  std::vector<T> x = random_values<T>(count, 1, -1000, 1000);
  const std::vector<T> f = random_values<T>(count, 2, -1000, 1000);
  on_every_isa<T>(
      [&](Isa isa) {
        CALL_ON(isa, round_to_grid<T>(count, x.data(), fraction_bits, T{INFINITY}, x.data()));
        std::vector<T> y = x;
        const T largest =
            CALL_ON(isa, couple_forward_on_grid<T>(count, y.data(), f.data(), fraction_bits, T{INFINITY}, y.data()));
        T expected = 0;
        for (const T value : y) expected = std::max(expected, std::abs(value));
        EXPECT_EQ(largest, expected);
        CALL_ON(isa, couple_inverse_on_grid<T>(count, y.data(), f.data(), fraction_bits, y.data()));
        return y;
      },
      [&](const std::vector<T>& solved) { EXPECT_TRUE(same_bits(solved, x)); });
}

TYPED_TEST(KernelsTest, GridReportsWhatIsNotFinite) {
  using T = TypeParam;
  const T infinity = std::numeric_limits<T>::infinity();
  for (const T bad : {infinity, -infinity, std::numeric_limits<T>::quiet_NaN(), -std::numeric_limits<T>::quiet_NaN()}) {
    for (const std::size_t position : {0, 4999, 20000}) {
      for (const Isa isa : machine_isas()) {
        std::vector<T> f(20001, T{1});
        std::vector<T> y(f.size());
        f[position] = bad;
        EXPECT_FALSE(std::isfinite(CALL_ON(isa, round_to_grid<T>(20001, f.data(), 8, T{INFINITY}, y.data()))));
        const std::vector<T> x(f.size(), T{3});
        EXPECT_FALSE(std::isfinite(
            CALL_ON(isa, couple_forward_on_grid<T>(20001, x.data(), f.data(), 8, T{INFINITY}, y.data()))));
      }
    }
  }
}

// Channels.

TYPED_TEST(KernelsTest, ConcatGatherAndScatter) {
  using T = TypeParam;
  const std::vector<std::vector<std::int64_t>> joins = {
      {1}, {3, 1}, {24, 12, 12, 12}, {5, 0, 13, 64, 7}, {150, 12, 80}};
  for (const std::int64_t rows : {1, 2, 37, 1031}) {
    for (const std::vector<std::int64_t>& channels : joins) {
      std::vector<std::vector<T>> inputs;
      std::vector<const T*> pointers;
      std::int64_t total = 0;
      for (const std::int64_t width : channels) {
        inputs.push_back(random_values<T>(rows * width, 10 + inputs.size()));
        pointers.push_back(inputs.back().data());
        total += width;
      }
      const std::int64_t count = static_cast<std::int64_t>(channels.size());
      std::vector<double> expected;
      for (std::int64_t row = 0; row < rows; ++row) {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          const auto begin = inputs[i].begin() + row * channels[i];
          expected.insert(expected.end(), begin, begin + channels[i]);
        }
      }
      expect_on_every_isa<T>(expected, 0, [&](Isa isa) {
        std::vector<T> y(at(rows * total));
        CALL_ON(isa, concat_gather<T>(rows, count, pointers.data(), channels.data(), y.data()));
        // Scatter it back: the second output is skipped, every other one accumulates on 1.
        std::vector<std::vector<T>> outputs;
        std::vector<T*> targets;
        const auto adds = std::make_unique<bool[]>(channels.size());
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          adds[i] = i % 2 == 0;
          outputs.push_back(std::vector<T>(inputs[i].size(), T{1}));
        }
        for (std::size_t i = 0; i < inputs.size(); ++i) targets.push_back(i == 1 ? nullptr : outputs[i].data());
        CALL_ON(isa, concat_scatter<T>(rows, count, y.data(), targets.data(), channels.data(), adds.get()));
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          std::vector<T> want = inputs[i];
          if (adds[i]) std::for_each(want.begin(), want.end(), [](T& value) { value = T{1} + value; });
          if (i == 1) std::fill(want.begin(), want.end(), T{1});
          EXPECT_TRUE(same_bits(outputs[i], want)) << "output " << i;
        }
        return y;
      });
    }
  }
}

TYPED_TEST(KernelsTest, PadChannels) {
  using T = TypeParam;
  const std::initializer_list<std::pair<std::int64_t, std::int64_t>> paddings = {
      {0, 0}, {1, 0}, {0, 5}, {8, 8}, {3, 16}};
  for (const Rows shape : awkward_rows) {
    for (const auto& [before, after] : paddings) {
      const std::int64_t left = before;
      const std::int64_t total = before + shape.channels + after;
      const std::int64_t right = after;
      const std::vector<T> x = random_values<T>(shape.count(), 1);
      const std::vector<T> sums = random_values<T>(shape.count(), 2);
      std::vector<double> expected(at(shape.rows * total));
      for (std::int64_t i = 0; i < shape.count(); ++i) {
        expected[at(i / shape.channels * total + left + i % shape.channels)] = x[at(i)];
      }
      expect_on_every_isa<T>(expected, 0, [&](Isa isa) {
        std::vector<T> y(expected.size(), T{9});
        CALL_ON(isa, pad_channels_forward<T>(shape.rows, shape.channels, left, right, x.data(), y.data()));
        std::vector<T> dx(x.size());
        CALL_ON(isa, pad_channels_backward<T>(shape.rows, shape.channels, left, right, y.data(), dx.data(), false));
        EXPECT_TRUE(same_bits(dx, x));
        dx = sums;
        CALL_ON(isa, pad_channels_backward<T>(shape.rows, shape.channels, left, right, y.data(), dx.data(), true));
        for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(dx[i], sums[i] + x[i]);
        return y;
      });
    }
  }
}

TYPED_TEST(KernelsTest, Bias) {
  using T = TypeParam;
  for (const Rows shape : awkward_rows) {
    const std::vector<T> x = random_values<T>(shape.count(), 1);
    const std::vector<T> bias = random_values<T>(shape.channels, 2);
    std::vector<double> sums(bias.begin(), bias.end());
    std::vector<double> biased = to_double(x);
    for (std::int64_t i = 0; i < shape.count(); ++i) {
      sums[at(i % shape.channels)] += x[at(i)];
      biased[at(i)] += bias[at(i % shape.channels)];
    }
    expect_on_every_isa<T>(biased, rounding<T>, [&](Isa isa) {
      std::vector<T> y = x;
      CALL_ON(isa, add_bias<T>(shape.rows, shape.channels, bias.data(), y.data()));
      return y;
    });
    for (const bool accumulate : {true, false}) {
      for (std::size_t c = 0; !accumulate && c < bias.size(); ++c) sums[c] -= bias[c];
      expect_on_every_isa<T>(sums, 10 * rounding<T>, [&](Isa isa) {
        std::vector<T> sum = accumulate ? bias : std::vector<T>(bias.size(), T(NAN));
        std::vector<double> workspace(at(channel_sum_workspace(shape.rows, shape.channels)), NAN);
        CALL_ON(isa, channel_sum<T>(shape.rows, shape.channels, x.data(), sum.data(), accumulate, workspace.data()));
        return sum;
      });
    }
  }
}

// Pooling.

PoolShape pool_shape(std::int64_t n, std::int64_t height, std::int64_t width, std::int64_t channels,
                     std::int64_t kernel, std::int64_t stride, std::int64_t pad) {
  return {n,
          height,
          width,
          channels,
          kernel,
          stride,
          pad,
          (height + 2 * pad - kernel) / stride + 1,
          (width + 2 * pad - kernel) / stride + 1};
}

std::int64_t out_count(const PoolShape& s) { return s.n * s.out_height * s.out_width * s.channels; }
std::int64_t in_count(const PoolShape& s) { return s.n * s.height * s.width * s.channels; }

/// body(offset in y, offsets in x of its window in scan order), for every element of y.
template <class Body>
void for_each_window(const PoolShape& s, const Body& body) {
  for (std::int64_t out = 0; out < out_count(s); ++out) {
    const std::int64_t c = out % s.channels;
    const std::int64_t column = out / s.channels % s.out_width * s.stride - s.pad;
    const std::int64_t row = out / s.channels / s.out_width % s.out_height * s.stride - s.pad;
    const std::int64_t image = out / s.channels / s.out_width / s.out_height;
    std::vector<std::size_t> window;
    for (std::int64_t h = row; h < row + s.kernel; ++h) {
      for (std::int64_t w = column; w < column + s.kernel; ++w) {
        if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
        window.push_back(at(((image * s.height + h) * s.width + w) * s.channels + c));
      }
    }
    body(at(out), window);
  }
}

/// Checks run(isa, dx, accumulate) both ways.
template <class T, class Run>
void expect_backward(const std::vector<double>& expected, double tolerance, const Run& run) {
  const std::vector<T> before = random_values<T>(static_cast<std::int64_t>(expected.size()), 77);
  for (const bool accumulate : {false, true}) {
    std::vector<double> sum = expected;
    for (std::size_t i = 0; accumulate && i < sum.size(); ++i) sum[i] += before[i];
    expect_on_every_isa<T>(sum, tolerance, [&](Isa isa) {
      std::vector<T> dx = accumulate ? before : std::vector<T>(before.size(), T(NAN));
      run(isa, dx.data(), accumulate);
      return dx;
    });
  }
}

TYPED_TEST(KernelsTest, AvgPool) {
  using T = TypeParam;
  for (const PoolShape& s :
       {pool_shape(1, 1, 1, 1, 1, 1, 0), pool_shape(3, 8, 8, 24, 2, 2, 0), pool_shape(2, 7, 5, 3, 2, 2, 0),
        pool_shape(2, 9, 7, 5, 3, 2, 0), pool_shape(1, 6, 11, 2, 2, 3, 0), pool_shape(2, 33, 31, 70, 2, 1, 0)}) {
    const std::vector<T> x = random_values<T>(in_count(s), 1);
    const std::vector<T> dy = random_values<T>(out_count(s), 2);
    std::vector<double> y(dy.size());
    std::vector<double> dx(x.size());
    const double area = static_cast<double>(s.kernel * s.kernel);
    for_each_window(s, [&](std::size_t out, const std::vector<std::size_t>& window) {
      for (const std::size_t in : window) {
        y[out] += x[in] / area;
        dx[in] += dy[out] / area;
      }
    });
    expect_on_every_isa<T>(y, rounding<T>, [&](Isa isa) {
      std::vector<T> result(y.size());
      CALL_ON(isa, avg_pool2d_forward<T>(s, x.data(), result.data()));
      return result;
    });
    expect_backward<T>(dx, rounding<T>, [&](Isa isa, T* result, bool accumulate) {
      CALL_ON(isa, avg_pool2d_backward<T>(s, dy.data(), result, accumulate));
    });
  }
}

TYPED_TEST(KernelsTest, GlobalAvgPool) {
  using T = TypeParam;
  for (const auto& [n, pixels, channels] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {3, 64, 342}, {2, 49, 1031}, {5, 7, 3}}) {
    const std::int64_t images = n, size = pixels, width = channels;
    const std::vector<T> x = random_values<T>(n * pixels * channels, 1);
    const std::vector<T> dy = random_values<T>(n * channels, 2);
    std::vector<double> y(dy.size());
    std::vector<double> dx(x.size());
    for (std::int64_t i = 0; i < n * pixels * channels; ++i) {
      const std::size_t out = at(i / (pixels * channels) * channels + i % channels);
      y[out] += x[at(i)] / static_cast<double>(pixels);
      dx[at(i)] = dy[out] / static_cast<double>(pixels);
    }
    expect_on_every_isa<T>(y, rounding<T>, [&](Isa isa) {
      std::vector<T> result(y.size());
      CALL_ON(isa, global_avg_pool_forward<T>(images, size, width, x.data(), result.data()));
      return result;
    });
    expect_backward<T>(dx, rounding<T>, [&](Isa isa, T* result, bool accumulate) {
      CALL_ON(isa, global_avg_pool_backward<T>(images, size, width, dy.data(), result, accumulate));
    });
  }
}

// Coarse values make ties, of which the first must win.
TYPED_TEST(KernelsTest, MaxPool) {
  using T = TypeParam;
  for (const PoolShape& s :
       {pool_shape(1, 1, 1, 1, 1, 1, 0), pool_shape(3, 8, 8, 24, 2, 2, 0), pool_shape(2, 7, 5, 3, 3, 2, 1),
        pool_shape(2, 9, 7, 65, 3, 2, 1), pool_shape(1, 6, 11, 2, 2, 3, 1), pool_shape(2, 16, 15, 130, 3, 1, 0)}) {
    const std::vector<T> x = coarse_values<T>(in_count(s), 1);
    const std::vector<T> dy = random_values<T>(out_count(s), 2);
    std::vector<double> y(dy.size());
    std::vector<double> dx(x.size());
    for_each_window(s, [&](std::size_t out, const std::vector<std::size_t>& window) {
      const auto best =
          std::max_element(window.begin(), window.end(), [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
      y[out] = x[*best];
      dx[*best] += dy[out];
    });
    expect_on_every_isa<T>(y, 0, [&](Isa isa) {
      std::vector<T> result(y.size());
      CALL_ON(isa, max_pool2d_forward<T>(s, x.data(), result.data()));
      return result;
    });
    expect_backward<T>(dx, 2 * rounding<T>, [&](Isa isa, T* result, bool accumulate) {
      CALL_ON(isa, max_pool2d_backward<T>(s, x.data(), dy.data(), result, accumulate));
    });
  }
}

TYPED_TEST(KernelsTest, MaxPoolOfNaN) {
  using T = TypeParam;
  const PoolShape s = pool_shape(1, 2, 2, 1, 2, 2, 0);
  for (std::size_t position = 0; position < 4; ++position) {
    for (const Isa isa : machine_isas()) {
      std::vector<T> x = {1, 2, 3, 4};
      x[position] = std::numeric_limits<T>::quiet_NaN();
      T y = 0;
      CALL_ON(isa, max_pool2d_forward<T>(s, x.data(), &y));
      EXPECT_TRUE(std::isnan(y));
      const T dy = 5;
      std::vector<T> dx(4);
      CALL_ON(isa, max_pool2d_backward<T>(s, x.data(), &dy, dx.data(), false));
      for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(dx[i], i == position ? 5 : 0);
    }
  }
}

// Dropout, the loss and the optimiser.

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
    for (const double range : {1.0, 500.0}) {  // exp(500) is infinite in float
      const std::vector<T> logits = random_values<T>(n * classes, 1, -range, range);
      std::vector<std::int32_t> labels;
      for (std::int64_t row = 0; row < n; ++row) labels.push_back(static_cast<std::int32_t>(row * 7 % classes));
      double loss = 0;
      std::int64_t correct = 0;
      std::vector<double> gradient(logits.size());
      for (std::int64_t row = 0; row < n; ++row) {
        const T* x = logits.data() + row * classes;
        const double largest = *std::max_element(x, x + classes);
        double sum = 0;
        for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(x[c] - largest);
        loss += (std::log(sum) + largest - x[labels[at(row)]]) / static_cast<double>(n);
        correct += std::max_element(x, x + classes) - x == labels[at(row)] ? 1 : 0;
        for (std::int64_t c = 0; c < classes; ++c) {
          const double softmax = std::exp(x[c] - largest) / sum;
          gradient[at(row * classes + c)] = 1.5 * (softmax - (c == labels[at(row)] ? 1 : 0)) / static_cast<double>(n);
        }
      }
      expect_on_every_isa<T>({loss}, rounding<T>, [&](Isa isa) {
        std::vector<T> result(1);
        CALL_ON(isa, cross_entropy_forward<T>(rows, width, logits.data(), labels.data(), result.data()));
        std::int64_t counted = -1;
        CALL_ON(isa, argmax_correct<T>(rows, width, logits.data(), labels.data(), &counted));
        EXPECT_EQ(counted, correct);
        return result;
      });
      expect_backward<T>(gradient, rounding<T>, [&](Isa isa, T* result, bool accumulate) {
        const T upstream = T{1.5};
        CALL_ON(isa,
                cross_entropy_backward<T>(rows, width, logits.data(), labels.data(), &upstream, result, accumulate));
      });
    }
  }
}

/// One tensor's step as PyTorch documents it.
void naive_sgd(double& p, double g, double* v, double weight_decay, bool first_step, const SgdSpec& spec) {
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
  for (const SgdSpec spec : {SgdSpec{0.1, 0, false}, SgdSpec{0.1, 0.9, false}, SgdSpec{0.1, 0.9, true}}) {
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
