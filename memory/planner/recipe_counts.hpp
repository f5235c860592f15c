#pragma once

#include <cstddef>
#include <string>

#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::memory {

/// The values of a step that reach backward, by their ways: those that a gradient reads, and those that such a value
/// is brought back from. Leaves (parameters, the batch) are not among them.
struct RecipeCounts {
  std::size_t kept = 0;
  std::size_t replayed = 0;     ///< into memory of their own
  std::size_t nested = 0;       ///< of these, those with a nesting (Recipe::nesting)
  std::size_t into_arenas = 0;  ///< replayed into an arena
  std::size_t inverted = 0;     ///< solved for
  std::size_t offloaded = 0;
  std::size_t others = 0;   ///< by recipes of the program's own
  std::size_t inexact = 0;  ///< of all these, those that come back up to rounding only
};

/// Counts the values that backward needs, and those that their replays need.
RecipeCounts count_recipes(const StepTrace& step);

/// "412 kept, 96 replayed (12 of them nested), 30 into arenas, 0 inverted, 0 offloaded"; ", 3 by other recipes" if
/// there are any.
std::string to_text(const RecipeCounts& counts);

}  // namespace palimpsest::memory
