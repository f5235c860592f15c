#pragma once

#include <functional>
#include <optional>
#include <vector>

#include <palimpsest/memory/planner/chain.hpp>
#include <palimpsest/memory/planner/planner.hpp>

namespace palimpsest::memory {

/// Looks for plans that trade time for memory; see Planner.
class Search {
 public:
  /// Rehearse a plan: what it takes, and all that happens.
  using TryOut = std::function<StepForecast(const Plan& plan)>;
  using Watch = std::function<StepTrace(const Plan& plan)>;

  /// `step`: the step in which everything is kept.
  Search(const StepTrace& step, const Rates& rates, TryOut try_out, Watch watch);

  /// Another plan to begin with: the recipes of this step's values.
  void begin_with(const StepTrace& step);
  void run(const std::optional<OffloadOptions>& offloading);

 private:
  /// A value of the step and what it would cost to do without its bytes.
  struct Item {
    int op = 0;
    int output = 0;
    std::size_t bytes = 0;
    bool needed = false;  ///< a gradient reads it
    bool optional = false;
    int last_use = -1;       ///< the last op that reads it in forward
    double return_cost = 0;  ///< seconds of its op and of those before it whose results nobody keeps for their own sake
    int coupling = -1;       ///< can be solved from this op's output
    Choice again{Way::Replay};  ///< how shared() would let it return
  };
  /// What a plan is to do; the values that only replays read follow from it.
  struct Draft {
    std::vector<Choice> choices;  ///< of each item
    std::vector<bool> fixed;      ///< kept, for others to be replayed from
  };

  struct Tried {
    Draft draft;
    Plan plan;
    StepForecast forecast;
  };

  void collect_items();
  void add_item(const StepTrace::Op& op, const StepTrace::Value& value, int number, double seconds);
  int item_of(int value) const { return item_of_value_[static_cast<std::size_t>(value)]; }
  Draft everything(Way needed) const;
  /// Positions in the step, each before an op, so that about `segment_bytes` are made between two of them and few bytes
  /// are alive there.
  std::vector<int> cuts(std::size_t segment_bytes) const;
  void keep_at_cuts(Draft& draft, std::size_t segment_bytes) const;
  Draft segments(std::size_t segment_bytes, double dearest, bool arenas) const;
  /// What a draft keeps for gradients is moved elsewhere instead.
  Draft offloaded(Draft draft, const OffloadOptions& options) const;
  Draft inverted(std::size_t couplings, std::size_t segment_bytes) const;
  /// Results of links are kept, or replayed with a nesting; all else is replayed when its link's turn comes.
  Draft linked(const Chain& chain, const std::function<int(int link)>& nesting) const;
  Plan complete(Draft draft) const;
  StepForecast attempt(const Draft& draft);
  /// If the step is a chain: its best schedules.
  void attempt_chain();
  /// The budgets to be filled: some between the least peak so far and the greatest, and some of the peaks than which no
  /// lower one is as fast.
  std::vector<std::size_t> budgets() const;
  /// Keeps again as much as fits, dearest first.
  void relax(Draft draft, std::size_t budget);

  const StepTrace& step_;
  Rates rates_;
  TryOut try_out_;
  Watch watch_;
  std::vector<Item> items_;
  std::vector<int> item_of_value_;
  std::vector<std::size_t> crossing_bytes_;
  std::vector<int> couplings_;  // items that can be solved for, in order
  std::vector<Tried> tried_;
};

}  // namespace palimpsest::memory
