#pragma once

#include "autograd/policy.hpp"
#include "autograd/value.hpp"

namespace palimpsest::memory {

/// Run the value's op again. What it reads is itself kept or restored.
RecipePtr replay();

/// Run the value's op again, into the shared storage numbered `arena` (Pleiss et al. 2017). In forward, too, the value
/// lives there, so that the next tenant overwrites it. `arena` must not be negative.
RecipePtr replay_into_arena(int arena);

/// Solve `coupling` for the value (Gomez et al. 2017): its output and other inputs are known when backward gets there.
RecipePtr invert(const Node& coupling);

}  // namespace palimpsest::memory
