#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/add.hpp>
#include <palimpsest/ops/kernels/couple.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

// The bits of |value| as an integer: ordered as the magnitudes are, infinity above them, NaN above infinity. So the
// largest integer tells the largest magnitude, and a NaN is never lost, in whatever order they are compared.
inline std::int32_t magnitude_bits(float value) { return __builtin_bit_cast(std::int32_t, value) & 0x7fffffff; }
inline std::int64_t magnitude_bits(double value) {
  return __builtin_bit_cast(std::int64_t, value) & 0x7fffffffffffffff;
}

template <class T>
using Magnitude = decltype(magnitude_bits(T{}));

// Adding this power of two to a magnitude below it leaves no bits below 2^-fraction_bits: the sum's last place.
template <class T>
T rounding_offset(int fraction_bits) {
  const int digits = sizeof(T) == 4 ? 24 : 53;
  return static_cast<T>(__builtin_ldexp(1.0, digits - 1 - fraction_bits));
}

// Magnitudes from `offset` on have no bits below 2^-fraction_bits and stay as they are. The last + 0 turns -0 into 0.
template <class T>
inline T rounded(T value, T offset) {
  const T magnitude = value < 0 ? -value : value;
  const T nearest = (magnitude + offset) - offset;
  const T result = value < 0 ? -nearest : nearest;
  return (magnitude < offset ? result : value) + T{0};
}

// Runs compute(i), which stores element i and returns it, for all elements; returns the largest magnitude.
template <class T, class Compute>
T largest_magnitude(std::int64_t count, const Compute& compute) {
  constexpr std::int64_t max_tasks = 64;
  Magnitude<T> largest[max_tasks] = {};
  const std::int64_t block = larger(task_elements, ceil_div(count, max_tasks));
  parallel_blocks(count, block, [&](std::int64_t begin, std::int64_t end) {
    Magnitude<T> bits = 0;
#pragma GCC ivdep
    for (std::int64_t i = begin; i < end; ++i) {
      const Magnitude<T> here = magnitude_bits(compute(i));
      bits = here > bits ? here : bits;
    }
    largest[begin / block] = bits;
  });
  Magnitude<T> result = 0;
  for (const Magnitude<T> bits : largest) result = bits > result ? bits : result;
  return __builtin_bit_cast(T, result);
}

}  // namespace

template <class T>
void couple_forward(std::int64_t count, const T* x, const T* f, T* y) {
  add(count, x, f, y);
}

template <class T>
void couple_inverse(std::int64_t count, const T* y, const T* f, T* x) {
  const Output<T> output(x, count, x == y || x == f);
  write_elements(count, output, [&](std::int64_t offset, std::int64_t span, T* to) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < span; ++i) to[i] = y[offset + i] - f[offset + i];
  });
}

template <class T>
T couple_forward_on_grid(std::int64_t count, const T* x, const T* f, int fraction_bits, const GridWatch<T>& watch,
                         T* y) {
  const T offset = rounding_offset<T>(fraction_bits);
  const T largest = largest_magnitude<T>(count, [=](std::int64_t i) {
    const T stream = x[i];
    const T sum = stream + rounded(f[i], offset);
    y[i] = sum;
    const bool on_grid = rounded(stream, offset) == stream || stream != stream;
    return on_grid ? sum : static_cast<T>(__builtin_nan(""));
  });
  if (watch.largest != nullptr && magnitude_bits(largest) > magnitude_bits(*watch.largest)) *watch.largest = largest;
  return largest;
}

template <class T>
void couple_inverse_on_grid(std::int64_t count, const T* y, const T* f, int fraction_bits, T* x) {
  const T offset = rounding_offset<T>(fraction_bits);
  parallel_elements(count, [&](std::int64_t begin, std::int64_t end) {
#pragma GCC ivdep
    for (std::int64_t i = begin; i < end; ++i) x[i] = y[i] - rounded(f[i], offset);
  });
}

template <class T>
void round_to_grid(std::int64_t count, const T* x, int fraction_bits, T* y) {
  const T offset = rounding_offset<T>(fraction_bits);
  parallel_elements(count, [&](std::int64_t begin, std::int64_t end) {
#pragma GCC ivdep
    for (std::int64_t i = begin; i < end; ++i) y[i] = rounded(x[i], offset);
  });
}

PALIMPSEST_COUPLE_KERNELS(float)
PALIMPSEST_COUPLE_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
