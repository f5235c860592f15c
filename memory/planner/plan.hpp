#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/planner/step_trace.hpp>
#include <palimpsest/memory/policies.hpp>

namespace palimpsest::memory {

/// How a plan lets a value reach backward.
struct Choice {
  Way way = Way::Keep;
  int arena = -1;   ///< of Way::Arena
  int nesting = 0;  ///< of Way::Replay, from 0 to Plan::most_nesting: see Recipe::nesting()

  bool operator==(const Choice&) const = default;
};

/// The ways out for ops that a plan does not know.
struct PlanFallback {
  /// Decides about them. By default the one that takes the least memory of the exact ones as a rule.
  PolicyPtr policy = compose(checkpoint(), shared());
  /// Is told of the first such op, once for all plans that share this; by default a line on standard error.
  std::function<void(const std::string&)> say = nullptr;
  std::atomic<bool> said = false;
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

  /// The policy that follows the plan. It covers the whole model, what is outside every block included; other shapes (a
  /// smaller last batch) are all right, and so is a step that begins anew while another is under way. A step that
  /// records other ops than the planned one (blocks left out, evaluation mode) goes on by `fallback` from the first
  /// difference. Offloaded values go to the options' folder.
  PolicyPtr policy(std::string name, std::shared_ptr<const OffloadOptions> options = std::make_shared<OffloadOptions>(),
                   std::shared_ptr<PlanFallback> fallback = std::make_shared<PlanFallback>()) const;

 private:
  std::size_t index(int op, int output) const {
    return first_[static_cast<std::size_t>(op)] + static_cast<std::size_t>(output);
  }

  std::vector<Choice> choices_;
  std::vector<std::size_t> first_;                            // choice of each op's first output
  std::shared_ptr<const std::vector<std::string>> op_names_;  // for comparison with the step
};

}  // namespace palimpsest::memory
