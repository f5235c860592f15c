#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::reports {

/// Whom memory belongs to: the op that made the value, or that ran when it was taken, and that op's block; the tag
/// where no op ran.
struct Owner {
  std::string block;
  std::string op;

  friend auto operator<=>(const Owner&, const Owner&) = default;
};

/// The memory of an owner at a moment of a step.
struct Owned {
  Owner owner;
  std::size_t bytes = 0;
  std::vector<int> allocations;  ///< of StepTrace::allocations, largest first; empty for what is older than the step
};

/// The name of a block as people read it: "outside every block" for none.
std::string block_label(const std::string& block);

/// The owner of an allocation of the step. A leaf has no op: what belongs to it is the run's that took the memory.
Owner owner_of(const memory::StepTrace& record, int allocation);

/// The content of an allocation, for people: "gradient of output 0, (2, 3, 8, 8) float32", "workspace".
std::string content_of(const memory::StepTrace& record, int allocation);

/// The owners of all bytes that are live after `event`, largest first. They add up to the live bytes. Memory older
/// than the step has the block "before the step" and its tag as op.
std::vector<Owned> owners_after(const memory::StepTrace& record, std::size_t event);

}  // namespace palimpsest::reports
