#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::memory {

/// The order of a step's ops, by name, as a policy for them can follow it: a step may have any number of sessions
/// (StepTrace::Session), and nothing says which of them begins. So sessions that begin alike are one until they part:
/// micro-batches have the places of the first of them, however many they are, and a session that goes another way has
/// places of its own from there on. Ops without a policy, which are outside of the model, have no place.
class PlannedOrder {
 public:
  explicit PlannedOrder(const StepTrace& step);

  /// The number of places.
  std::size_t size() const { return names_.size(); }
  /// The op's name at a place.
  const std::string& name(std::size_t place) const { return names_[place]; }
  /// The place of an op of the step, no_place for one that has none.
  std::size_t place_of(int op) const { return place_of_op_[static_cast<std::size_t>(op)]; }

  /// The place of an op of this name, where `next` is the one after that of the op before: `next`, or what may come
  /// there instead; no_place for an op that does not come there.
  std::size_t follow(std::string_view name, std::size_t next) const;
  /// The place of an op of this name with which a session or a model's call begins; no_place for none.
  std::size_t beginning(std::string_view name) const;

 private:
  std::size_t add(const StepTrace::Op& op, std::size_t next);

  std::vector<std::string> names_;
  std::vector<bool> begins_;                                 // a model's call, at each place
  std::vector<std::pair<std::size_t, std::size_t>> others_;  // a place, and one that may come instead
  std::vector<std::size_t> place_of_op_;
};

}  // namespace palimpsest::memory
