#pragma once

#include <array>
#include <functional>
#include <optional>
#include <vector>

#include <palimpsest/memory/planner/chain_schedule.hpp>
#include <palimpsest/memory/planner/plan.hpp>
#include <palimpsest/memory/planner/rates.hpp>

namespace palimpsest::memory {

/// A session of a step read as a chain: runs of ops between which one value alone is passed on. If every link is one op
/// the schedules of chain_schedules() are all there are; the inside of longer links is made again when backward gets
/// there.
class Chain {
 public:
  /// True if link i, from 0, keeps its result.
  using Keeps = std::function<bool(int link)>;
  /// A plan and the step that followed it.
  struct Rehearsed {
    Plan plan;
    StepTrace step;
  };
  /// Rehearses the plan in which the results of some links and the last one's are kept, all others are replayed with
  /// nesting 0, and what is made inside links with Plan::most_nesting.
  using Rehearse = std::function<Rehearsed(const Keeps& keeps)>;

  /// In the ops of the step's session number `session`. nullopt if fewer than three links are found. Neighbours are
  /// joined where there are more than `most_links`.
  static std::optional<Chain> find(const StepTrace& step, std::size_t session, int most_links);

  int count() const { return static_cast<int>(last_op_.size()); }
  /// The link that an op is in, -1 for one of another session, and the link whose result a value is, -1 for one made
  /// inside a link.
  int link_of(int op) const;
  int link_that_ends_in(int op, int output) const;

  /// Measures what the links take. Four rehearsals show each link in all situations that make a difference: with all
  /// results kept, with none, and with every other one, odd or even. nullopt if the session does not run through the
  /// links one after the other, forward and back.
  std::optional<std::vector<ChainLink>> measure(const Rates& rates, const Rehearse& rehearse);
  /// The most bytes that are live in the session before the first link and after all backward; known after measure().
  std::int64_t floor() const { return floor_; }

 private:
  class Reading;
  using Stretch = StepTrace::Range;  ///< of runs or of events

  std::vector<ChainLink> read_needs(const StepTrace& step) const;
  /// True if any link's backward reads the result of this one.
  bool is_wanted(const std::vector<ChainLink>& chain, int link) const;
  /// `readings`: with no results kept, those of links with even numbers, with odd ones, and all.
  void measure_forward(std::vector<ChainLink>& chain, const std::array<const Reading*, 4>& readings) const;
  void measure_backward(std::vector<ChainLink>& chain, const Reading& all_kept, const Reading& none_kept) const;

  std::size_t session_ = 0;
  int first_op_ = 0;
  std::vector<int> link_of_op_;  // from the session's first op on
  std::vector<int> last_op_;     // of each link
  std::vector<int> output_;      // which of that op's outputs is the link's result
  std::int64_t floor_ = 0;
};

}  // namespace palimpsest::memory
