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

// y = x + r(f) of a span. Returns the largest magnitude's bits; those of a NaN if an x is not on the grid. No branch,
// so that it is a loop over vectors.
template <class T>
inline Magnitude<T> couple_span(std::int64_t count, const T* x, const T* f, T offset, T* y) {
  Magnitude<T> largest = 0;
  Magnitude<T> off_grid = 0;
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const T stream = x[i];
    const T sum = stream + rounded(f[i], offset);
    y[i] = sum;
    const Magnitude<T> bits = magnitude_bits(sum);
    largest = bits > largest ? bits : largest;
    off_grid |= (rounded(stream, offset) != stream ? 1 : 0) & (stream == stream ? 1 : 0);
  }
  return off_grid == 0 ? largest : magnitude_bits(static_cast<T>(__builtin_nan("")));
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
  constexpr std::int64_t max_tasks = 64;
  constexpr std::int64_t max_span = 512;
  const T offset = rounding_offset<T>(fraction_bits);
  const Output<T> output(y, count, y == x || y == f);
  const std::int64_t block = larger(task_elements, ceil_div(count, max_tasks));
  Magnitude<T> of_tasks[max_tasks] = {};
  parallel_blocks(count, block, [&](std::int64_t begin, std::int64_t end) {
    Magnitude<T> bits = 0;
    for (std::int64_t first = begin; first < end; first += max_span) {
      const std::int64_t span = smaller(max_span, end - first);
      output.write(first, span,
                   [&](T* to) { bits = larger(bits, couple_span(span, x + first, f + first, offset, to)); });
    }
    output.finish();
    of_tasks[begin / block] = bits;
  });
  Magnitude<T> bits = 0;
  for (const Magnitude<T> task : of_tasks) bits = larger(bits, task);
  const T largest = __builtin_bit_cast(T, bits);
  if (watch.largest != nullptr && magnitude_bits(largest) > magnitude_bits(*watch.largest)) *watch.largest = largest;
  return largest;
}

template <class T>
void couple_inverse_on_grid(std::int64_t count, const T* y, const T* f, int fraction_bits, T* x) {
  const T offset = rounding_offset<T>(fraction_bits);
  const Output<T> output(x, count, x == y || x == f);
  write_elements(count, output, [&](std::int64_t first, std::int64_t span, T* to) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < span; ++i) to[i] = y[first + i] - rounded(f[first + i], offset);
  });
}

template <class T>
void round_to_grid(std::int64_t count, const T* x, int fraction_bits, T* y) {
  const T offset = rounding_offset<T>(fraction_bits);
  const Output<T> output(y, count, y == x);
  write_elements(count, output, [&](std::int64_t first, std::int64_t span, T* to) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < span; ++i) to[i] = rounded(x[first + i], offset);
  });
}

PALIMPSEST_COUPLE_KERNELS(float)
PALIMPSEST_COUPLE_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
