#pragma once

#include <functional>
#include <optional>
#include <vector>

#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/planner/step_items.hpp>

namespace palimpsest::memory {

/// Strategies: each draws up plans for a step, in the order in which they are to be tried.

/// Segments between cuts (Chen et al. 2016), replayed whole or only where a replayed byte is cheap, into memory of
/// their own or into arenas; the rest is kept or, with options, also offloaded.
std::vector<Draft> segment_drafts(const StepItems& items, const std::optional<OffloadOptions>& offloading);

/// The first couplings are inverted and their branches replayed; the rest is kept, or replayed in segments.
std::vector<Draft> inversion_drafts(const StepItems& items);

/// The best schedules of those sessions of the step that are chains (memory/planner/chain_schedule.hpp), all within the
/// same peak. `watch` rehearses a plan.
std::vector<Draft> chain_drafts(const StepItems& items, const StepTrace& step, const Rates& rates,
                                const std::function<StepTrace(const Plan& plan)>& watch);

}  // namespace palimpsest::memory
