#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <palimpsest/memory/budget.hpp>
#include <palimpsest/memory/planner/plan.hpp>
#include <palimpsest/memory/planner/rates.hpp>

namespace palimpsest::memory {

/// A training step that can be run without its arithmetic.
struct Rehearsal {
  /// The meta device that the step runs on. No other thread may use its memory during a rehearsal.
  Device device = Device::MetaCpu;
  /// Runs one whole step under the policy, or under the model's usual ones where it is null. The same step every time,
  /// like any but the first of a run. Its exceptions come out of the planner's functions, but for an
  /// IdlePolicyError: a policy that has nothing to act on is passed over.
  std::function<void(const PolicyPtr& policy)> step;
};

/// The predicted memory and time of a step.
struct StepForecast {
  std::size_t peak = 0;  ///< bytes; what is live beside the step is included
  TagBytes by_tag{};     ///< adds up to `peak`
  std::size_t peak_reserved = 0;
  Work work;
  double seconds = 0;  ///< by the table of rates
};

/// A way to run the step.
struct Candidate {
  PolicyPtr policy;
  StepForecast forecast;
  bool planned = false;  ///< a plan; otherwise one of combinations()
};

/// Runs the step once and says what it takes.
StepForecast forecast(const Rehearsal& rehearsal, const PolicyPtr& policy, const Rates& rates);
/// The same with the record of everything that happened.
StepTrace rehearse(const Rehearsal& rehearsal, const PolicyPtr& policy);

/// The name of the planned policies, for people.
inline constexpr std::string_view planned_name = "budget";

/// Chooses recipes so that a step stays within a budget of bytes and takes the least predicted time.
///
/// The planner never trusts an estimate of memory: it looks for promising plans and rehearses each, so that peaks are
/// exact, replay transients included. Its findings do not depend on the budgets it is asked for: a list of
/// candidates in which each needs more memory and less time than the one before. So more memory never gets a slower
/// plan, and no single policy that fits (offload only where it is allowed) is better.
///
/// How it looks: all built-in policies and their compositions; segments between cuts at which few bytes are alive (Chen
/// et al. 2016), replayed whole or only where a replayed byte is cheap, the rest kept or moved elsewhere; couplings
/// inverted from the first up to any other; where the step is a chain, its best schedules, in which checkpoints are
/// made on the way to others (memory/planner/chain_schedule.hpp); and, for each of a row of budgets, the best of these
/// with as much kept again as fits. For a chain of at most twenty ops the schedules of keeping and replaying among the
/// candidates are the best there are (compared with all there are for twelve values), but for those left out where
/// there are very many.
///
/// Ops that a plan does not know (Plan::policy) go by the exact one of combinations() that takes the least memory.
class Planner {
 public:
  /// `rehearsal` must outlive the planner's construction, in which all the searching is done.
  /// `offloading`: values may also be moved elsewhere, with these options; nullopt: they stay on the device. Throws
  /// ValueError for rates that are none, and what the step throws.
  Planner(const Rehearsal& rehearsal, const Rates& rates,
          const std::optional<OffloadOptions>& offloading = std::nullopt);

  /// From the least memory to the least time.
  const std::vector<Candidate>& candidates() const { return candidates_; }
  /// The fastest candidate whose peak is within the budget. Throws ValueError, stating the least feasible bytes and the
  /// values that pin it, if there is none.
  const Candidate& within(std::size_t budget) const;
  /// Rehearsals that the search took.
  std::size_t rehearsals() const { return rehearsals_; }

 private:
  std::vector<Candidate> candidates_;
  std::size_t rehearsals_ = 0;
  bool may_offload_;
  std::string pinned_by_;  // what is live at the peak of the thriftiest candidate
};

}  // namespace palimpsest::memory
