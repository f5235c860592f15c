#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/planner/planned_order.hpp>
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

/// A recipe for each value that a step makes under a policy, by the place of its op in the step's order. Ops of the
/// same place share their recipes.
class Plan {
 public:
  /// Keeps everything that the step in this record makes, which has run under store_all_of_model().
  explicit Plan(const StepTrace& step);

  static constexpr int most_nesting = 255;
  const PlannedOrder& order() const { return *order_; }
  /// The choice for an output of an op of the step; set() leaves those alone that are made outside of the model.
  Choice at(int op, int output) const;
  void set(int op, int output, const Choice& choice);
  /// The choice for an output of the op at a place; null for one that the plan does not know.
  const Choice* at_place(std::size_t place, std::size_t output) const;
  /// The number of values that cross in this way; those of one place are one.
  std::size_t count(Way way) const;

  /// Equal choices: the plans are of one step.
  friend bool operator==(const Plan& a, const Plan& b) { return a.choices_ == b.choices_; }

  /// The policy that follows the plan. It covers the whole model, or each of the step's models, what is outside every
  /// block included; other shapes (a smaller last batch), more or fewer sessions that are alike (micro-batches) and
  /// sessions in another order are all right, and so is a step that begins anew while another is under way. A step that
  /// records other ops than the planned one (blocks left out, evaluation mode) goes on by `fallback` from the first
  /// difference, as if its policy had been set for the model. Offloaded values go to the options' folder.
  PolicyPtr policy(std::string name, std::shared_ptr<const OffloadOptions> options = std::make_shared<OffloadOptions>(),
                   std::shared_ptr<PlanFallback> fallback = std::make_shared<PlanFallback>()) const;

 private:
  std::shared_ptr<const PlannedOrder> order_;
  std::vector<Choice> choices_;
  std::vector<std::size_t> first_;  // choice of the first output, at each place and behind the last
};

}  // namespace palimpsest::memory
