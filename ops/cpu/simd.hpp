#pragma once

// Short vectors for CPU kernels, by the compiler's vector extensions. Only for kernel files (see core/kernel.hpp): all
// of it lives in the namespace of the instruction set that the including file is compiled for, so that no two of them
// share a function. A width other than PALIMPSEST_VECTOR_BYTES is possible where it is not larger.

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(PALIMPSEST_ISA) || !defined(PALIMPSEST_VECTOR_BYTES)
#error "ops/cpu/simd.hpp is for kernel files, which are compiled once per instruction set"
#endif

namespace palimpsest::kernels::PALIMPSEST_ISA::simd {

/// Bytes of the widest vector and the number of such vectors that the machine has registers for.
inline constexpr int vector_bytes = PALIMPSEST_VECTOR_BYTES;
inline constexpr int registers = PALIMPSEST_VECTOR_BYTES == 64 ? 32 : 16;

/// A vector of `Bytes` bytes of T: arithmetic is element-wise, a scalar operand is broadcast.
template <class T, int Bytes = vector_bytes>
struct Simd {
  typedef T Vector __attribute__((vector_size(Bytes), may_alias));
  typedef T Unaligned __attribute__((vector_size(Bytes), may_alias, aligned(alignof(T))));
  static constexpr int lanes = Bytes / static_cast<int>(sizeof(T));
};

template <class T, int Bytes = vector_bytes>
using Vector = typename Simd<T, Bytes>::Vector;

template <class T, int Bytes = vector_bytes>
[[gnu::always_inline]] inline Vector<T, Bytes> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T, Bytes>::Unaligned*>(p);
}

template <class T, int Bytes = vector_bytes>
[[gnu::always_inline]] inline void store(T* p, Vector<T, Bytes> v) {
  *reinterpret_cast<typename Simd<T, Bytes>::Unaligned*>(p) = v;
}

#if defined(__AVX2__)
/// For maskload and maskstore: 0 <= count <= lanes leading elements are on.
template <int Lanes>
[[gnu::always_inline]] inline const std::int32_t* leading_mask(int count) {
  alignas(32) static constexpr std::int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  return mask + (Lanes == 8 ? 8 - count : 8 - 2 * count);  // Lanes == 4: 64-bit elements
}
#endif

/// The first 0 <= count <= lanes elements from p, zeros behind them. Nothing behind them is read.
template <class T, int Bytes = vector_bytes>
[[gnu::always_inline]] inline Vector<T, Bytes> load_partial(const T* p, int count) {
#if defined(__AVX512VL__)
  [[maybe_unused]] const unsigned mask = (1U << count) - 1U;
  if constexpr (Bytes == 64 && sizeof(T) == 4) return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
  if constexpr (Bytes == 64 && sizeof(T) == 8) return _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
  if constexpr (Bytes == 32 && sizeof(T) == 4) return _mm256_maskz_loadu_ps(static_cast<__mmask8>(mask), p);
  if constexpr (Bytes == 32 && sizeof(T) == 8) return _mm256_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
#elif defined(__AVX2__)
  if constexpr (Bytes == 32) {
    const __m256i mask =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(leading_mask<Simd<T, Bytes>::lanes>(count)));
    if constexpr (sizeof(T) == 4) return _mm256_maskload_ps(p, mask);
    if constexpr (sizeof(T) == 8) return _mm256_maskload_pd(p, mask);
  }
#endif
  Vector<T, Bytes> v = {};
  for (int lane = 0; lane < Simd<T, Bytes>::lanes; ++lane) {
    if (lane < count) v[lane] = p[lane];
  }
  return v;
}

/// Stores the first 0 <= count <= lanes elements to p. Nothing behind them is touched.
template <class T, int Bytes = vector_bytes>
[[gnu::always_inline]] inline void store_partial(T* p, Vector<T, Bytes> v, int count) {
#if defined(__AVX512VL__)
  [[maybe_unused]] const unsigned mask = (1U << count) - 1U;
  if constexpr (Bytes == 64 && sizeof(T) == 4) return _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), v);
  if constexpr (Bytes == 64 && sizeof(T) == 8) return _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), v);
  if constexpr (Bytes == 32 && sizeof(T) == 4) return _mm256_mask_storeu_ps(p, static_cast<__mmask8>(mask), v);
  if constexpr (Bytes == 32 && sizeof(T) == 8) return _mm256_mask_storeu_pd(p, static_cast<__mmask8>(mask), v);
#elif defined(__AVX2__)
  if constexpr (Bytes == 32) {
    const __m256i mask =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(leading_mask<Simd<T, Bytes>::lanes>(count)));
    if constexpr (sizeof(T) == 4) return _mm256_maskstore_ps(p, mask, v);
    if constexpr (sizeof(T) == 8) return _mm256_maskstore_pd(p, mask, v);
  }
#endif
  for (int lane = 0; lane < Simd<T, Bytes>::lanes; ++lane) {
    if (lane < count) p[lane] = v[lane];
  }
}

/// a * b + c, rounded once where the instruction set has such an instruction. Kernels are compiled without contraction,
/// so this is the only place where the rounding of a product is left out: the bits of a result follow from the source,
/// and do not change with what the compiler sees around it (sanitizers, inlining, optimisation level).
template <class T, int Bytes = vector_bytes>
[[gnu::always_inline]] inline Vector<T, Bytes> multiply_add(Vector<T, Bytes> a, Vector<T, Bytes> b,
                                                            Vector<T, Bytes> c) {
#if defined(__AVX512F__)
  if constexpr (Bytes == 64 && sizeof(T) == 4) return _mm512_fmadd_ps(a, b, c);
  if constexpr (Bytes == 64 && sizeof(T) == 8) return _mm512_fmadd_pd(a, b, c);
#endif
#if defined(__FMA__)
  if constexpr (Bytes == 32 && sizeof(T) == 4) return _mm256_fmadd_ps(a, b, c);
  if constexpr (Bytes == 32 && sizeof(T) == 8) return _mm256_fmadd_pd(a, b, c);
  if constexpr (Bytes == 16 && sizeof(T) == 4) return _mm_fmadd_ps(a, b, c);
  if constexpr (Bytes == 16 && sizeof(T) == 8) return _mm_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
  if constexpr (Bytes == 16 && sizeof(T) == 4) return vfmaq_f32(c, a, b);
  if constexpr (Bytes == 16 && sizeof(T) == 8) return vfmaq_f64(c, a, b);
#endif
  return a * b + c;
}

/// The same with a factor for all lanes.
template <class T, int Bytes = vector_bytes>
[[gnu::always_inline]] inline Vector<T, Bytes> multiply_add(Vector<T, Bytes> a, T b, Vector<T, Bytes> c) {
  return multiply_add<T, Bytes>(a, b - Vector<T, Bytes>{}, c);  // the subtraction of zeros is none: only a broadcast
}

/// The lanes of the first (High = false) or second half of a and b in turn: a0 b0 a1 b1 ...
template <class T, int Bytes, bool High, int... Lane>
[[gnu::always_inline]] inline Vector<T, Bytes> interleave(Vector<T, Bytes> a, Vector<T, Bytes> b,
                                                          std::integer_sequence<int, Lane...>) {
  constexpr int count = sizeof...(Lane);
  return __builtin_shufflevector(a, b, (Lane / 2 + (High ? count / 2 : 0) + (Lane % 2 != 0 ? count : 0))...);
}

/// Transposes a square of lanes x lanes elements: as many times as lanes has bits, rows of the lower half are
/// interleaved with those of the upper half.
template <class T, int Bytes = vector_bytes>
[[gnu::always_inline]] inline void transpose(Vector<T, Bytes> (&rows)[Simd<T, Bytes>::lanes]) {
  constexpr int lanes = Simd<T, Bytes>::lanes;
  constexpr std::make_integer_sequence<int, lanes> sequence = {};
#pragma GCC unroll 4
  for (int size = lanes; size > 1; size /= 2) {
    Vector<T, Bytes> mixed[lanes];
#pragma GCC unroll 8
    for (int i = 0; i < lanes / 2; ++i) {
      mixed[2 * i] = interleave<T, Bytes, false>(rows[i], rows[i + lanes / 2], sequence);
      mixed[2 * i + 1] = interleave<T, Bytes, true>(rows[i], rows[i + lanes / 2], sequence);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = mixed[i];
  }
}

/// to[c][r] = from[r][c] for r < rows, c < cols, both up to `lanes`. Steps are those between rows, in elements.
template <class T>
[[gnu::always_inline]] inline void transpose_block(const T* from, std::int64_t from_step, int rows, int cols, T* to,
                                                   std::int64_t to_step) {
  constexpr int lanes = Simd<T>::lanes;
  Vector<T> block[lanes] = {};
  if (rows == lanes && cols == lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) block[i] = load<T>(from + i * from_step);
    transpose<T>(block);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) store<T>(to + i * to_step, block[i]);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i < rows) block[i] = load_partial<T>(from + i * from_step, cols);
    }
    transpose<T>(block);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i < cols) store_partial<T>(to + i * to_step, block[i], rows);
    }
  }
}

}  // namespace palimpsest::kernels::PALIMPSEST_ISA::simd
