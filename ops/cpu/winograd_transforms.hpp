#pragma once

// The transforms of Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016), for kernel files:
//   y = A^T [(G g G^T) * (B^T d B)] A
// with d a patch of 6x6 inputs, g the 3x3 kernel, y 4x4 outputs and * the product of elements. Each function is one
// dimension of a transform, on vectors of channels. The usual points of interpolation, 0, 1, -1, 2, -2 and infinity,
// lose three digits; with 0, a, -a, b, -b and infinity, a and b to both sides of 1, it is less than one
// (docs/performance.md).

#include <palimpsest/ops/cpu/simd.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr int winograd_out = 4;  // outputs along one side of a tile
constexpr int winograd_in = 6;   // inputs along one side of its patch
constexpr int winograd_frequencies = winograd_in * winograd_in;

/// The points and their squares, which are exact.
template <class T>
struct WinogradPoints {
  static constexpr T a = T(0.625);
  static constexpr T b = T(1.5);
  static constexpr T a2 = a * a;
  static constexpr T b2 = b * b;
  // One over the product of a point's distances from the others.
  static constexpr T at_0 = T(1) / (a2 * b2);
  static constexpr T at_a = T(1) / (2 * a2 * (a2 - b2));
  static constexpr T at_b = T(1) / (2 * b2 * (b2 - a2));
};

/// to = B^T from.
template <class T>
[[gnu::always_inline]] inline void transform_input(const simd::Vector<T> (&from)[winograd_in],
                                                   simd::Vector<T> (&to)[winograd_in]) {
  using P = WinogradPoints<T>;
  using V = simd::Vector<T>;
  const V even_a = simd::multiply_add<T>(from[2], -P::b2, from[4]);
  const V odd_a = simd::multiply_add<T>(from[1], -P::b2, from[3]);
  const V even_b = simd::multiply_add<T>(from[2], -P::a2, from[4]);
  const V odd_b = simd::multiply_add<T>(from[1], -P::a2, from[3]);
  to[0] = simd::multiply_add<T>(simd::multiply_add<T>(from[0], P::a2, -from[2]), P::b2, even_b);
  to[1] = simd::multiply_add<T>(odd_a, P::a, even_a);
  to[2] = simd::multiply_add<T>(odd_a, -P::a, even_a);
  to[3] = simd::multiply_add<T>(odd_b, P::b, even_b);
  to[4] = simd::multiply_add<T>(odd_b, -P::b, even_b);
  to[5] = simd::multiply_add<T>(odd_a, -P::a2, simd::multiply_add<T>(from[3], -P::b2, from[5]));
}

/// to = G from.
template <class T>
[[gnu::always_inline]] inline void transform_kernel(const simd::Vector<T> (&from)[3],
                                                    simd::Vector<T> (&to)[winograd_in]) {
  using P = WinogradPoints<T>;
  using V = simd::Vector<T>;
  const V even_a = simd::multiply_add<T>(from[2], P::a2, from[0]) * P::at_a;
  const V even_b = simd::multiply_add<T>(from[2], P::b2, from[0]) * P::at_b;
  to[0] = from[0] * P::at_0;
  to[1] = simd::multiply_add<T>(from[1], P::a * P::at_a, even_a);
  to[2] = simd::multiply_add<T>(from[1], -P::a * P::at_a, even_a);
  to[3] = simd::multiply_add<T>(from[1], P::b * P::at_b, even_b);
  to[4] = simd::multiply_add<T>(from[1], -P::b * P::at_b, even_b);
  to[5] = from[2];
}

/// to = A^T from.
template <class T>
[[gnu::always_inline]] inline void transform_output(const simd::Vector<T> (&from)[winograd_in],
                                                    simd::Vector<T> (&to)[winograd_out]) {
  using P = WinogradPoints<T>;
  using V = simd::Vector<T>;
  const V sum_a = from[1] + from[2];
  const V difference_a = from[1] - from[2];
  const V sum_b = from[3] + from[4];
  const V difference_b = from[3] - from[4];
  to[0] = from[0] + (sum_a + sum_b);
  to[1] = simd::multiply_add<T>(difference_a, P::a, difference_b * P::b);
  to[2] = simd::multiply_add<T>(sum_a, P::a2, sum_b * P::b2);
  to[3] = simd::multiply_add<T>(difference_a, P::a * P::a2, simd::multiply_add<T>(difference_b, P::b * P::b2, from[5]));
}

/// to = A from: the transpose of transform_output(), for its gradient.
template <class T>
[[gnu::always_inline]] inline void transform_output_gradient(const simd::Vector<T> (&from)[winograd_out],
                                                             simd::Vector<T> (&to)[winograd_in]) {
  using P = WinogradPoints<T>;
  using V = simd::Vector<T>;
  const V even_a = simd::multiply_add<T>(from[2], P::a2, from[0]);
  const V odd_a = simd::multiply_add<T>(from[3], P::a2, from[1]);
  const V even_b = simd::multiply_add<T>(from[2], P::b2, from[0]);
  const V odd_b = simd::multiply_add<T>(from[3], P::b2, from[1]);
  to[0] = from[0];
  to[1] = simd::multiply_add<T>(odd_a, P::a, even_a);
  to[2] = simd::multiply_add<T>(odd_a, -P::a, even_a);
  to[3] = simd::multiply_add<T>(odd_b, P::b, even_b);
  to[4] = simd::multiply_add<T>(odd_b, -P::b, even_b);
  to[5] = from[3];
}

/// to = G^T from: the transpose of transform_kernel(), for its gradient.
template <class T>
[[gnu::always_inline]] inline void transform_kernel_gradient(const simd::Vector<T> (&from)[winograd_in],
                                                             simd::Vector<T> (&to)[3]) {
  using P = WinogradPoints<T>;
  using V = simd::Vector<T>;
  const V sum_a = (from[1] + from[2]) * P::at_a;
  const V sum_b = (from[3] + from[4]) * P::at_b;
  to[0] = simd::multiply_add<T>(from[0], P::at_0, sum_a + sum_b);
  to[1] = simd::multiply_add<T>(from[1] - from[2], P::a * P::at_a, (from[3] - from[4]) * (P::b * P::at_b));
  to[2] = simd::multiply_add<T>(sum_a, P::a2, simd::multiply_add<T>(sum_b, P::b2, from[5]));
}

/// Both dimensions of a transform: load(row, column) gives the elements of a matrix, store(row, column, value) takes
/// those of the result.
template <class T, int From, int To, class Transform, class Load, class Store>
[[gnu::always_inline]] inline void transform_both(const Transform& transform, const Load& load, const Store& store) {
  using V = simd::Vector<T>;
  V columns[From][To];
#pragma GCC unroll 8
  for (int s = 0; s < From; ++s) {
    V column[From];
#pragma GCC unroll 8
    for (int r = 0; r < From; ++r) column[r] = load(r, s);
    transform(column, columns[s]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < To; ++r) {
    V row[From];
    V result[To];
#pragma GCC unroll 8
    for (int s = 0; s < From; ++s) row[s] = columns[s][r];
    transform(row, result);
#pragma GCC unroll 8
    for (int s = 0; s < To; ++s) store(r, s, result[s]);
  }
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
