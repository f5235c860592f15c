#pragma once

#include <cstddef>
#include <string>

#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::memory {

/// How many of a step's values reach backward, and how: those that a gradient reads, and those that such a value is
/// brought back from. Leaves (parameters, the batch) are not among them.
struct RecipeCounts {
  std::size_t kept = 0;
  std::size_t replayed = 0;     ///< into memory of their own
  std::size_t nested = 0;       ///< of these, those with a nesting (Recipe::nesting)
  std::size_t into_arenas = 0;  ///< replayed into an arena
  std::size_t inverted = 0;     ///< solved for
  std::size_t inexact = 0;      ///< of these, those that come back up to rounding only
  std::size_t offloaded = 0;
};

RecipeCounts count_recipes(const StepTrace& step);

/// "412 kept, 96 replayed (12 of them nested), 30 into arenas, 0 inverted, 0 offloaded".
std::string to_text(const RecipeCounts& counts);

}  // namespace palimpsest::memory
