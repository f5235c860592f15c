#pragma once

#include <cstddef>
#include <cstdint>

#include <palimpsest/core/types.hpp>

namespace palimpsest {

/// 128 bits that tell byte sequences apart: not against forgery. Integer arithmetic alone, so the same on every device,
/// for any number of threads and any instruction set. A change that is confined to one aligned word of eight bytes (a
/// flipped bit, say) always changes both halves; any other change, words or blocks that have swapped places included,
/// goes unseen by chance only.
struct Fingerprint {
  std::uint64_t first = 0;
  std::uint64_t second = 0;

  bool operator==(const Fingerprint&) const = default;
};

/// Bytes of a piece: what is fingerprinted together, or left out of a sample together.
inline constexpr std::size_t fingerprint_piece = 4096;

/// A choice among the pieces of a sequence of bytes: those whose number is `first` modulo `period`.
struct Sample {
  std::uint64_t first = 0;
  std::uint64_t period = 1;

  /// Pieces of a sequence of so many bytes that are looked at.
  std::uint64_t pieces(std::size_t bytes) const {
    const std::uint64_t all = (bytes + fingerprint_piece - 1) / fingerprint_piece;
    return all > first ? (all - first + period - 1) / period : 0;
  }
};

/// The fingerprint of a sample of the host's bytes at `data`, which must be aligned to 8 bytes.
Fingerprint fingerprint(const void* data, std::size_t bytes, Sample sample = {});

namespace cuda {

/// Adds the fingerprint of a sample of device memory to the one at `to`, which is in device memory, too, and 0 before.
void add_fingerprint(const void* data, std::size_t bytes, Sample sample, Fingerprint* to);

/// If the fingerprints at `expected` and `found` differ, writes `check` to `verdict` unless that is not 0 any more, and
/// clears `found`. All are in device memory.
void compare_fingerprints(const Fingerprint* expected, Fingerprint* found, std::uint64_t check, std::uint64_t* verdict);

}  // namespace cuda
}  // namespace palimpsest
