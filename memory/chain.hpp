#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "memory/chain_schedule.hpp"
#include "memory/plan.hpp"
#include "memory/rates.hpp"

namespace palimpsest::memory {

/// A step read as a chain: runs of ops between which one value alone is passed on. Where every link is one op the
/// schedules of chain_schedules() are all there are; in longer links what is inside is made again when backward gets
/// there.
class Chain {
 public:
  /// Which results are kept; the others are replayed, with equal nesting. For link i (from 0), what is made inside a
  /// link and the last link's result excepted.
  using Keeps = std::function<bool(int link)>;
  /// Rehearses the plan that follows from it, and returns that plan and what happened.
  struct Rehearsed {
    Plan plan;
    StepRecord step;
  };
  using Rehearse = std::function<Rehearsed(const Keeps& keeps)>;

  /// nullopt if fewer than three links are found. Of more than `most_links`, neighbours are joined.
  static std::optional<Chain> find(const StepRecord& step, int most_links);

  int count() const { return static_cast<int>(last_op_.size()); }
  /// The link that an op is in, and the link whose result a value is, -1 for one made inside a link.
  int link_of(int op) const { return link_of_op_[static_cast<std::size_t>(op)]; }
  int link_that_ends_in(int op, int output) const;

  /// Measures what the links take in four rehearsals. nullopt if the step does not run through the chain's links one
  /// after the other, forward and back.
  std::optional<std::vector<ChainLink>> measure(const Rates& rates, const Rehearse& rehearse);
  /// The most bytes that are live before the first link and after all backward; known after measure().
  std::int64_t floor() const { return floor_; }

 private:
  class Reading;

  std::vector<int> link_of_op_;
  std::vector<int> last_op_;  // of each link
  std::vector<int> output_;   // which of that op's outputs is the link's result
  std::int64_t floor_ = 0;
};

}  // namespace palimpsest::memory
