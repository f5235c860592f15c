#pragma once

#include <memory>
#include <string>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::memory {

/// How a plan lets a value reach backward.
struct Choice {
  Way way = Way::Keep;
  int arena = -1;   ///< of Way::Arena
  int nesting = 0;  ///< of Way::Replay, from 0 to Plan::most_nesting: see Recipe::nesting()

  bool operator==(const Choice&) const = default;
};

/// A recipe for each value of a step, in the order in which the step records them.
class Plan {
 public:
  /// Keeps everything that the step in this record makes.
  explicit Plan(const StepTrace& step);

  static constexpr int most_nesting = 255;
  const Choice& at(int op, int output) const { return choices_[index(op, output)]; }
  void set(int op, int output, const Choice& choice) { choices_[index(op, output)] = choice; }
  /// The number of values that cross in this way.
  std::size_t count(Way way) const;
  /// The names of the planned step's ops, in order.
  const std::vector<std::string>& op_names() const { return *op_names_; }

  /// Equal choices: the plans are of one step.
  friend bool operator==(const Plan& a, const Plan& b) { return a.choices_ == b.choices_; }

  /// The policy that follows the plan. It covers the whole model, what is outside every block included. In a step that
  /// records other ops than the planned one it throws StateError; other shapes (a smaller last batch) are all right.
  /// Offloaded values go to the options' folder.
  PolicyPtr policy(std::string name,
                   std::shared_ptr<const OffloadOptions> options = std::make_shared<OffloadOptions>()) const;

 private:
  std::size_t index(int op, int output) const {
    return first_[static_cast<std::size_t>(op)] + static_cast<std::size_t>(output);
  }

  std::vector<Choice> choices_;
  std::vector<std::size_t> first_;                            // choice of each op's first output
  std::shared_ptr<const std::vector<std::string>> op_names_;  // for comparison with the step
};

}  // namespace palimpsest::memory
