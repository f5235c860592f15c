#pragma once

#include <functional>
#include <optional>
#include <vector>

#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/memory/planner/step_items.hpp>

namespace palimpsest::memory {

/// Looks for plans that trade time for memory: tries those that the strategies draw up (memory/planner/strategies.hpp),
/// then refills the best of them. See Planner.
class Search {
 public:
  /// Rehearse a plan: what it takes, and all that happens.
  using TryOut = std::function<StepForecast(const Plan& plan)>;
  using Watch = std::function<StepTrace(const Plan& plan)>;

  /// `step`: the step in which everything is kept.
  Search(const StepTrace& step, const Rates& rates, TryOut try_out, Watch watch);

  /// Another plan to begin with: the recipes of this step's values.
  void begin_with(const StepTrace& step) { attempt(items_.read_off(step)); }
  void run(const std::optional<OffloadOptions>& offloading);

 private:
  struct Tried {
    Draft draft;
    Plan plan;
    StepForecast forecast;
  };

  StepForecast attempt(const Draft& draft);
  void attempt_all(const std::vector<Draft>& drafts);
  /// The fastest of those tried whose peak is within the budget.
  const Tried& best_within(std::size_t budget) const;
  /// The budgets to be filled: some between the least peak so far and the greatest, and some of the peaks than which no
  /// lower one is as fast.
  std::vector<std::size_t> budgets() const;
  /// Keeps again as much as fits into the budget, dearest first.
  void refill(Draft draft, std::size_t budget);
  /// The items of the draft that a refill may keep, dearest first.
  std::vector<std::size_t> dearest_first(const Draft& draft) const;

  const StepTrace& step_;
  Rates rates_;
  TryOut try_out_;
  Watch watch_;
  StepItems items_;
  std::vector<Tried> tried_;
};

}  // namespace palimpsest::memory
