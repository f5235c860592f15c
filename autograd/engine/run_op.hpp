#pragma once

#include <string>
#include <vector>

#include <palimpsest/autograd/observer.hpp>
#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

inline std::vector<View> views_of(const std::vector<ValuePtr>& values) {
  std::vector<View> views;
  for (const ValuePtr& value : values) views.push_back(value->view());
  return views;
}

/// True if a plan for the whole step knows the node and decides about what it makes. The planner has counted what a
/// replay takes and what it holds on to (memory/planner/chain_schedule.hpp), so that nothing is done in place that the
/// plan knows nothing of.
inline bool is_planned(const Node& node) {
  return node.policy != nullptr && node.policy->covers_the_rest() && node.place != no_place;
}

inline void observe_placed(const Value& value) {
  if (Observer* const there = observer()) there->placed(value);
}

inline const Shape& shape_of(const View& view) { return view.shape; }
inline const Shape& shape_of(const ValuePtr& value) { return value->shape(); }

/// Runs part of an op. If the device fails in it, the DeviceError that leaves says which op that was and on which
/// inputs (views or values); the words of kernels and copies are about bytes.
template <class Inputs, class Run>
void run_named(const Op& op, const Inputs& inputs, const Run& run) {
  try {
    run();
  } catch (const DeviceError& error) {
    std::string shapes;
    for (const auto& input : inputs) shapes += concat_text(shapes.empty() ? "" : ", ", shape_of(input));
    throw DeviceError(concat_text("[", op.name(), "] on inputs ", shapes, ": ", error.what()));
  }
}

/// Tells an observer that a run has ended, however it ends.
struct EndOfRun {
  Observer* observer;
  Work work = {};
  ~EndOfRun() {
    if (observer != nullptr) observer->run_ends(work);
  }
};

/// The same for a run of a step: an observer, if there is one, is told of it, and that it amounted to `work()`.
template <class Inputs, class Run, class MakeWork>
void run_op(const OpRun& run, const Inputs& inputs, const Run& body, const MakeWork& work) {
  EndOfRun end{observer()};
  if (end.observer != nullptr) end.observer->run_begins(run);
  run_named(*run.node.op, inputs, body);
  if (end.observer != nullptr) end.work = work();
}

}  // namespace palimpsest
