#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/dropout.hpp>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

// Philox runs on as many counters at once as a vector has 64-bit lanes. A lane holds a 32-bit word in its lower half;
// what the products leave in the upper half is ignored by the products of the next round and cut off at the end.
constexpr int lanes = PALIMPSEST_VECTOR_BYTES / 8;
using Lanes = std::uint64_t __attribute__((vector_size(PALIMPSEST_VECTOR_BYTES)));

/// The 64-bit products of the lower halves of each lane.
inline Lanes multiply_low(Lanes a, Lanes b) {
#if PALIMPSEST_VECTOR_BYTES == 64 && defined(__AVX512F__)
  // Masked with nothing off: the plain intrinsic warns of an uninitialised value in GCC 12.
  return (Lanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif PALIMPSEST_VECTOR_BYTES == 32 && defined(__AVX2__)
  return (Lanes)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif PALIMPSEST_VECTOR_BYTES == 16 && defined(__SSE2__)
  return (Lanes)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

inline Lanes lower_half(Lanes a) { return a & 0xffffffff; }

// The keys of Philox's rounds, in every lane.
struct KeySchedule {
  static constexpr int rounds = 10;

  explicit KeySchedule(std::uint64_t key) {
    std::uint32_t k0 = static_cast<std::uint32_t>(key);
    std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < rounds; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
      first[round] = Lanes{} + k0;
      second[round] = Lanes{} + k1;
    }
  }

  Lanes first[rounds];
  Lanes second[rounds];
};

// a[0], b[0], a[1], b[1], ... to `to`, which need not be aligned.
inline void store_interleaved(Lanes a, Lanes b, std::uint32_t* to) {
#if PALIMPSEST_VECTOR_BYTES == 64
  const Lanes low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  const Lanes high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif PALIMPSEST_VECTOR_BYTES == 32
  const Lanes low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Lanes high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
  const Lanes low = __builtin_shufflevector(a, b, 0, 2);
  const Lanes high = __builtin_shufflevector(a, b, 1, 3);
#endif
  __builtin_memcpy(to, &low, sizeof(low));
  __builtin_memcpy(to + 2 * lanes, &high, sizeof(high));
}

// philox(key, counter ... counter + lanes - 1) to words[0 .. 4 * lanes), in order.
inline void philox_lanes(const KeySchedule& keys, std::uint64_t counter, std::uint32_t* words) {
  Lanes c0 = {};
  for (int lane = 0; lane < lanes; ++lane) c0[lane] = counter + static_cast<std::uint64_t>(lane);
  Lanes c1 = c0 >> 32;
  Lanes c2 = {};
  Lanes c3 = {};
  const Lanes multiplier0 = Lanes{} + 0xD2511F53;
  const Lanes multiplier1 = Lanes{} + 0xCD9E8D57;
  for (int round = 0; round < KeySchedule::rounds; ++round) {
    const Lanes p0 = multiply_low(c0, multiplier0);
    const Lanes p1 = multiply_low(c2, multiplier1);
    c0 = (p1 >> 32) ^ c1 ^ keys.first[round];
    c1 = p1;
    c2 = (p0 >> 32) ^ c3 ^ keys.second[round];
    c3 = p0;
  }
  store_interleaved(lower_half(c0) | c1 << 32, lower_half(c2) | c3 << 32, words);
}

// y = x * factor where the word's upper 24 bits are at least `threshold`, else 0.
template <bool accumulate, class T>
inline void keep_or_drop(std::int64_t count, const std::uint32_t* words, std::uint32_t threshold, T factor, const T* x,
                         T* y) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const T kept = x[i] * factor;
    const T value = (words[i] >> 8) >= threshold ? kept : 0;
    y[i] = accumulate ? y[i] + value : value;
  }
}

}  // namespace

template <class T>
void dropout(std::int64_t count, const T* x, T* y, double probability, std::uint64_t seed, std::uint64_t offset,
             bool accumulate) {
  const std::uint32_t threshold = static_cast<std::uint32_t>(__builtin_ceil(probability * 0x1.0p24));
  const T factor = static_cast<T>(1 / (1 - probability));
  const KeySchedule keys(seed);
  constexpr std::int64_t batch = 1024;  // a multiple of 4 * lanes
  parallel_blocks(count, 4 * batch, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) std::uint32_t words[batch];
    for (std::int64_t first = begin; first < end; first += batch) {
      const std::int64_t size = smaller(batch, end - first);
      for (std::int64_t i = 0; i < size; i += 4 * lanes) {
        philox_lanes(keys, offset + static_cast<std::uint64_t>(first + i) / 4, words + i);
      }
      accumulate ? keep_or_drop<true>(size, words, threshold, factor, x + first, y + first)
                 : keep_or_drop<false>(size, words, threshold, factor, x + first, y + first);
    }
  });
}

template void dropout(std::int64_t, const float*, float*, double, std::uint64_t, std::uint64_t, bool);
template void dropout(std::int64_t, const double*, double*, double, std::uint64_t, std::uint64_t, bool);

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
