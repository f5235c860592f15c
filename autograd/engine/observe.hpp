#pragma once

#include <vector>

#include <palimpsest/autograd/observer.hpp>

namespace palimpsest {

/// A run of an op, for the observer if there is one.
class ObservedRun {
 public:
  ObservedRun(const Op& op, const Node* node, const BlockInfo* block, RunKind kind) : observer_(observer()) {
    if (observer_ != nullptr) observer_->run_begins({op, node, block, kind});
  }
  ~ObservedRun() {
    if (observer_ != nullptr) observer_->run_ends(work_);
  }
  ObservedRun(const ObservedRun&) = delete;
  ObservedRun& operator=(const ObservedRun&) = delete;

  /// To be called when the run has succeeded, with a function of no arguments that says what it has done: it is worked
  /// out only if somebody wants to know.
  template <class MakeWork>
  void done(const MakeWork& work) {
    if (observer_ != nullptr) work_ = work();
  }

 private:
  Observer* observer_;
  Work work_;
};

inline std::vector<View> views_of(const std::vector<ValuePtr>& values) {
  std::vector<View> views;
  for (const ValuePtr& value : values) views.push_back(value->view());
  return views;
}

inline void observe_placed(const Value& value) {
  if (Observer* const there = observer()) there->placed(value);
}

}  // namespace palimpsest
