#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/train/memory_choice.hpp>

namespace palimpsest::reports {

/// A change that brings the peak of a step down.
struct Saving {
  double fraction = 0;      ///< of the peak that was asked for: 0.1 for a tenth
  std::size_t peak = 0;     ///< bytes after the change
  double time_factor = 0;   ///< predicted time of a step against now
  std::string change = "";  ///< the option that makes it
};

/// The needs of a step under a policy.
struct PolicyForecast {
  std::string policy = "";
  std::size_t peak = 0;    ///< bytes
  TagBytes by_tag{};       ///< at the peak; adds up to it
  double operations = 0;   ///< of the whole step; a multiply-add counts as two
  double time_factor = 0;  ///< predicted time of a step against store-all's
};

/// The needs of the run's second step under each of memory::names(), and under the run's own policy if that is
/// another, by rehearsals. Policies that have nothing to act on are left out. `memory` is the choice for the run's own,
/// so that nothing is planned again.
///
/// Times are those of the run's table of rates (train::rates_for), as in the plan table and for the planner. Throws
/// OutOfMemory, ValueError, DataError.
std::vector<PolicyForecast> policy_forecasts(const train::Task& task, const train::Options& options,
                                             const train::MemoryChoice& memory);

/// The fastest plans that need a tenth, a fifth and a half less than the run does; without those that there are not.
/// They are those of the run's own planner if it has one; else they are planned here, which takes seconds for a deep
/// net. Throws as policy_forecasts.
std::vector<Saving> cheapest_savings(const train::Task& task, const train::Options& options,
                                     const train::MemoryChoice& memory);

}  // namespace palimpsest::reports
