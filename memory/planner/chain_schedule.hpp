#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest::memory {

/// One link of a chain: it makes a result from the result of the link before it, and nothing else reads that. Link 0
/// reads what is there anyway. Bytes are signed because differences of them are.
struct ChainLink {
  std::int64_t bytes = 0;         ///< of its result
  bool reads_input = false;       ///< its backward reads the result of the link before
  bool reads_output = false;      ///< its backward reads its own result
  double replay_seconds = 0;      ///< to make its result again
  std::int64_t replay_bytes = 0;  ///< live bytes go up by as much while it is made again, the result included

  /// The most that is live in its forward, results of links but its own and the one before left out:
  /// [input kept][result kept], where a result that is not kept is dropped or overwritten when the next link has read
  /// it.
  std::array<std::array<std::int64_t, 2>, 2> forward_peak{};
  /// The bytes that are live when its backward is about to begin, results of links left out.
  std::int64_t before_backward = 0;
  /// The most that is live in its backward, results of links left out: [result kept].
  std::array<std::int64_t, 2> backward_peak{};
};

/// The results of a chain to keep, and those to keep again on the way to others.
struct ChainSchedule {
  static constexpr int kept = -1;

  std::int64_t peak = 0;  ///< live bytes
  double replay_seconds = 0;
  /// For each link's result but the last one's: kept, or its Recipe::nesting().
  std::vector<int> nesting;
};

/// The schedules than which no other takes both fewer bytes and less time, from the least bytes on, among all that keep
/// results and replay them, checkpoints made on the way included: those of Griewank & Walther (2000, "Revolve") for
/// links that differ in bytes and time (Beaumont et al. 2019, "Rotor").
///
/// Dynamic programming over pairs of links: if `a` is there and `b` is wanted next, some link between them is the first
/// to stay of what is made on the way. O(n^3) for n links times the length of the lists of alternatives,
/// which are thinned to `alternatives` where they are longer; where they are not, the result is optimal.
///
/// `floor`: bytes that are live at some moment whatever is done about the chain. Throws ValueError for no links, or
/// more than Plan::most_nesting.
std::vector<ChainSchedule> chain_schedules(std::span<const ChainLink> links, std::int64_t floor,
                                           std::size_t alternatives);

}  // namespace palimpsest::memory
