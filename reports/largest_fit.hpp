#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>

namespace palimpsest::reports {

/// Looks for the largest number from 1 to `most` for which what `bytes` says is within a budget.
struct FitSearch {
  std::size_t budget = 0;
  std::int64_t start = 1;  ///< tried first
  std::int64_t most = 1;
  std::int64_t known_fit = 0;                   ///< this number fits; 0: none is known to
  std::map<std::int64_t, std::size_t> known{};  ///< bytes of some numbers
  int most_calls = 100;
  /// To rise with its number. Nothing: there is no such number, nor any smaller one.
  std::function<std::optional<std::size_t>(std::int64_t)> bytes{};
};

/// A number that fits, and whether the next one is known not to or to be more than there may be.
struct LargestFit {
  std::int64_t number = 0;  ///< 0: none fits
  bool exact = true;        ///< false: there may be larger ones that fit

  friend bool operator==(const LargestFit&, const LargestFit&) = default;
};

/// Searches by interpolation: bytes over batch are nearly a line and over depth nearly a parabola, so that few numbers
/// are tried, and none far beyond the one that is found, where nets take long to build. Nothing if the numbers from
/// which on something would fit do not exist.
std::optional<LargestFit> find_largest(const FitSearch& search);

}  // namespace palimpsest::reports
