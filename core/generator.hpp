#pragma once

#include <cstdint>
#include <utility>

namespace palimpsest {

/// The state of a counter-based random stream (see core/philox.hpp): which counters have been used. Operations that
/// draw random numbers reserve counters in their first forward and use the same ones on replay.
struct Generator {
  std::uint64_t seed = 0;
  std::uint64_t offset = 0;

  /// Reserves `counters` counters and returns the first.
  std::uint64_t reserve(std::uint64_t counters) { return std::exchange(offset, offset + counters); }
};

}  // namespace palimpsest
