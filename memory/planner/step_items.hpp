#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <palimpsest/memory/planner/plan.hpp>
#include <palimpsest/memory/planner/rates.hpp>

namespace palimpsest::memory {

/// A value that an op of the step makes, and the cost of doing without its bytes. Values of one place in a plan are one
/// item: that of the session with the highest peak.
struct Item {
  int op = 0;
  int output = 0;
  std::size_t bytes = 0;
  bool needed = false;     ///< a gradient reads it
  int last_use = -1;       ///< the last op that reads it in forward
  double return_cost = 0;  ///< seconds of its op and of those before it whose results nobody keeps for their own sake
  int coupling = -1;       ///< can be solved from this op's output
  Choice again{Way::Replay};  ///< how shared() would let it return

  double seconds_per_byte() const { return return_cost / static_cast<double>(bytes); }
};

/// A plan to be: the values that only replays read follow from it (StepItems::complete).
struct Draft {
  std::vector<Choice> choices;  ///< of each item
  std::vector<bool> fixed;      ///< kept, for others to be replayed from
};

/// The items of a step in which everything is kept, in the order in which each session makes them, and drafts of plans
/// for them. Values that no policy decides about are not among them.
class StepItems {
 public:
  /// `step`, which has run under store_all_of_model(), must outlive the items.
  StepItems(const StepTrace& step, const Rates& rates);

  std::size_t size() const { return items_.size(); }
  std::size_t ops() const { return step_.ops.size(); }
  const Item& operator[](std::size_t i) const { return items_[i]; }
  const std::vector<Item>& all() const { return items_; }
  /// True if the items of the session's values are all its own, and there are some.
  bool leads(const StepTrace::Session& session) const;
  /// Those that can be solved for, in order.
  const std::vector<std::size_t>& couplings() const { return couplings_; }
  /// Bytes of all that gradients read.
  std::size_t needed_bytes() const;

  /// All items in the same way.
  Draft everything(Way way) const;
  /// The draft of another run of the step, under some policy.
  Draft read_off(const StepTrace& step) const;
  /// Cuts the step into segments of about `segment_bytes` where few bytes are alive, which are kept; 0: no cuts.
  void keep_at_cuts(Draft& draft, std::size_t segment_bytes) const;
  /// Keeps and replays what the draft's replays need. A value that no gradient reads is replayed where a replay reads
  /// it; elsewhere a recipe would only hold on to its sources.
  Plan complete(const Draft& draft) const;

 private:
  void add_session(const StepTrace::Session& session, std::span<const double> seconds);
  void add(const StepTrace::Op& op, const StepTrace::Value& value, int number, double seconds);
  int item_of(int value) const { return item_of_value_[static_cast<std::size_t>(value)]; }
  /// Positions in the step, each before an op.
  std::vector<int> cuts(std::size_t segment_bytes) const;

  const StepTrace& step_;
  Plan kept_;
  std::vector<int> op_at_place_;
  std::vector<Item> items_;
  std::vector<int> item_of_value_;
  std::vector<std::size_t> crossing_bytes_;  // alive at each position
  std::vector<std::size_t> couplings_;
};

}  // namespace palimpsest::memory
