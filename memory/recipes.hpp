#pragma once

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/autograd/value.hpp>
#include <palimpsest/memory/offload.hpp>

namespace palimpsest::memory {

/// Run the value's op again. Its inputs are themselves kept or restored. `nesting`: see Recipe::nesting().
RecipePtr replay(int nesting = 0);

/// The two arenas of shared() and of plans: a joined value (a concatenation) often outlives what is made from it.
inline constexpr int joins_arena = 0;
inline constexpr int rest_arena = 1;

/// Run the value's op again, into the shared storage numbered `arena` (Pleiss et al. 2017). In forward, too, the value
/// lives there, so that the next tenant overwrites it. `arena` must not be negative.
RecipePtr replay_into_arena(int arena);

/// Move the bytes out of the device's memory when forward has no more use for them and fetch them for backward, both
/// beside the computation: from CUDA to pinned host memory, from the CPU to a file in the options' folder. For one
/// value: each needs a recipe of its own. Two values at a time may be on their way out, and two on their way back (see
/// Recipe::fetch_ahead); they still, or already, take memory. A failure is an OffloadError of the step.
RecipePtr fetch(std::shared_ptr<const OffloadOptions> options = std::make_shared<OffloadOptions>());

/// Solve `coupling` for the value (Gomez et al. 2017): its output and other inputs are known when backward gets there.
RecipePtr invert(const Node& coupling);

}  // namespace palimpsest::memory
