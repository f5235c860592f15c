// The elementwise CPU kernels and those of couplings against naive references in double: awkward shapes, buffers of
// the exact size, aliasing and accumulation.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <palimpsest/ops/kernels/add.hpp>
#include <palimpsest/ops/kernels/couple.hpp>
#include "tests/ops/kernels_support.hpp"

namespace palimpsest::kernels {
namespace {

TYPED_TEST_SUITE(KernelsTest, FloatTypes);

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

TYPED_TEST(KernelsTest, Sums) {
  using T = TypeParam;
  expect_elementwise<T>(
      rounding<T>, [](double a, double b) { return a + b; },
      [](Isa isa, std::int64_t count, const T* a, const T* b, T* out) { CALL_ON(isa, add<T>(count, a, b, out)); });
  expect_in_place<T>(
      rounding<T>, [](double x, double before) { return before + x; },
      [](Isa isa, std::int64_t count, const T* x, T* out) { CALL_ON(isa, accumulate<T>(count, x, out)); });
  expect_in_place<T>(
      0, [](double, double) { return 2.5; },
      [](Isa isa, std::int64_t count, const T*, T* out) { CALL_ON(isa, fill<T>(count, T{2.5}, out)); });
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
        CALL_ON(isa, couple_forward_on_grid<T>(count, x, f, 5, {}, y));
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
      CALL_ON(isa, round_to_grid<T>(count, x.data(), fraction_bits, y.data()));
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
        CALL_ON(isa, round_to_grid<T>(count, x.data(), fraction_bits, x.data()));
        std::vector<T> y = x;
        const T largest =
            CALL_ON(isa, couple_forward_on_grid<T>(count, y.data(), f.data(), fraction_bits, {}, y.data()));
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
        const std::vector<T> x(f.size(), T{3});
        EXPECT_FALSE(
            std::isfinite(CALL_ON(isa, couple_forward_on_grid<T>(20001, x.data(), f.data(), 8, {}, y.data()))));
      }
    }
  }
}

}  // namespace
}  // namespace palimpsest::kernels
