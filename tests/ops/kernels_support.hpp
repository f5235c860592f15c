#pragma once

// Tools of the tests of the memory-bound CPU kernels: every instruction set of the machine, the same bits for any
// number of threads, awkward shapes.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include <palimpsest/core/kernel.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/core/philox.hpp>

namespace palimpsest::kernels {

#if defined(PALIMPSEST_X86_KERNELS)
#define CALL_ON(isa, ...) \
  ((isa) == Isa::Avx512 ? avx512::__VA_ARGS__ : (isa) == Isa::Avx2 ? avx2::__VA_ARGS__ : generic::__VA_ARGS__)
#else
#define CALL_ON(isa, ...) (static_cast<void>(isa), generic::__VA_ARGS__)
#endif

inline std::vector<Isa> machine_isas() {
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

inline std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

/// For results that are computed in T in another order than the reference.
template <class T>
inline constexpr double rounding = sizeof(T) == 4 ? 2e-6 : 1e-13;

struct Rows {
  std::int64_t rows;
  std::int64_t channels;
  std::int64_t count() const { return rows * channels; }
};

inline const std::initializer_list<Rows> awkward_rows = {
    {1, 1},     {1, 7},    {2, 3},    {17, 1},    {33, 12},  {100, 13},  {67, 24},   {31, 36},
    {129, 204}, {1000, 5}, {64, 256}, {300, 129}, {3, 2048}, {19, 2051}, {5000, 12}, {2311, 61}};

inline const std::initializer_list<std::int64_t> awkward_counts = {0,  1,  2,  3,    15,   16,   17,
                                                                   63, 64, 65, 1023, 8192, 8193, 100003};

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

/// The suite of all kernels, spread over files.
template <class T>
class KernelsTest : public ::testing::Test {};
/// The opening of each file of the suite: TYPED_TEST_SUITE(KernelsTest, FloatTypes).
using FloatTypes = ::testing::Types<float, double>;

}  // namespace palimpsest::kernels
