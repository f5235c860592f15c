#pragma once

#include <array>
#include <cstdint>

namespace palimpsest {

/// Philox4x32-10, a counter-based generator (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): four
/// 32-bit words that are a pure function of (key, counter). The same on every device and for any number of threads.
constexpr std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low,
                                              std::uint64_t counter_high = 0) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key);
  std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
  std::array<std::uint32_t, 4> c = {
      static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32),
      static_cast<std::uint32_t>(counter_high), static_cast<std::uint32_t>(counter_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

/// A number in [0, 1) with 24 random bits, exact in float32.
constexpr float unit_float(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1.0p-24F; }

/// A stream of random numbers over philox, for code that draws one after the other (initialisation, shuffling).
/// Two streams with different (seed, stream) are independent.
class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  /// 32 uniform bits.
  std::uint32_t bits() {
    if (used_ == 4) {
      words_ = philox(seed_, counter_++, stream_);
      used_ = 0;
    }
    return words_[used_++];
  }

  /// Uniform in [0, 1) with 53 random bits.
  double uniform() {
    const std::uint64_t high = bits() >> 5;
    const std::uint64_t low = bits() >> 6;
    return static_cast<double>((high << 26) | low) * 0x1.0p-53;
  }

  /// Uniform in {0, ..., bound - 1}; bound must be positive. Unbiased to 2^-32 of the bound.
  std::uint64_t below(std::uint64_t bound) {
    const std::uint64_t high = bits();
    const std::uint64_t low = bits();
    return static_cast<std::uint64_t>((static_cast<__uint128_t>((high << 32) | low) * bound) >> 64);
  }

  /// Standard normal, by the Box-Muller transform.
  double normal();

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t counter_ = 0;
  std::array<std::uint32_t, 4> words_{};
  unsigned used_ = 4;
};

}  // namespace palimpsest
