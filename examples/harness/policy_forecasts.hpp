#pragma once

#include <vector>

#include "examples/harness/dry_run.hpp"
#include "examples/harness/memory_report.hpp"

namespace palimpsest::harness {

/// What the second step of the run would need under each of memory::names(), and under the run's own policy if that is
/// another: found out on the meta device that stands for `device`. Policies that have nothing to act on are left out.
/// `memory`: what choose_memory() has made of the run's own, for which nothing is planned again.
///
/// Times are those of the run's table of rates (rates_for), as in --plan and for the planner. Throws OutOfMemory,
/// ValueError, DataError.
std::vector<PolicyForecast> policy_forecasts(const MakeModel& make_model, const MemoryChoice& memory,
                                             const Options& options, const TrainingDefaults& defaults, Device device);

/// The fastest plans that need a tenth, a fifth and a half less than the run does; without those that there are not.
/// They are those of the run's own planner if it has one; else they are planned here, which takes seconds where a net
/// is deep. Throws as policy_forecasts.
std::vector<Saving> cheapest_savings(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                                     const TrainingDefaults& defaults, Device device);

}  // namespace palimpsest::harness
