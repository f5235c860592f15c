#pragma once

// The arithmetic of fingerprints, for the CPU and for CUDA. A piece is cut into lanes, lane l having the words l, l +
// lanes, and so on; each gathers its words in two ways, and the fingerprint is the sum over all lanes of what they have
// gathered, stirred with the lane's number. A sum of integers does not depend on its order.

#include <cstdint>

#include <palimpsest/core/fingerprint.hpp>

namespace palimpsest::fingerprint_detail {

inline constexpr std::uint64_t lanes = 8;
inline constexpr std::uint64_t word_bytes = 8;
inline constexpr std::uint64_t lane_words = fingerprint_piece / word_bytes / lanes;

constexpr std::uint64_t rotate(std::uint64_t bits, int by) { return bits << by | bits >> (64 - by); }

/// A bijection that spreads every bit over all (the finaliser of SplitMix64, Steele et al. 2014).
constexpr std::uint64_t stir(std::uint64_t bits) {
  bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9;
  bits = (bits ^ bits >> 27) * 0x94D049BB133111EB;
  return bits ^ bits >> 31;
}

/// Bijective in each word: no single word can change unseen. Two ways, because two words that cancel out in one of them
/// do not in the other.
struct Lane {
  std::uint64_t product = 0x243F6A8885A308D3;
  std::uint64_t sum = 0x13198A2E03707344;

  constexpr void add(std::uint64_t word) {
    product = rotate(product ^ word, 29) * 0x9E3779B97F4A7C15;
    sum = rotate(sum, 7) + word;
  }
};

/// The contribution of lane `number` of the whole sequence.
constexpr Fingerprint contribution(const Lane& lane, std::uint64_t number) {
  const std::uint64_t key = (number + 1) * 0xD1B54A32D192ED03;
  return {stir(lane.product + key), stir(lane.sum ^ key)};
}

/// The contribution of the length: trailing zeros count.
constexpr Fingerprint contribution(std::uint64_t bytes) { return {stir(bytes), stir(~bytes)}; }

/// The last bytes of a sequence, fewer than a word.
constexpr std::uint64_t partial_word(const unsigned char* data, std::uint64_t bytes) {
  std::uint64_t word = 0;
  for (std::uint64_t i = 0; i < bytes; ++i) word |= static_cast<std::uint64_t>(data[i]) << (8 * i);
  return word;
}

}  // namespace palimpsest::fingerprint_detail
