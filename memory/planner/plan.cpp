#include <palimpsest/memory/planner/plan.hpp>

#include <algorithm>
#include <iostream>

#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/recipes.hpp>

namespace palimpsest::memory {

namespace {

class PlannedPolicy : public Policy {
 public:
  PlannedPolicy(Plan plan, std::string name, std::shared_ptr<const OffloadOptions> options,
                std::shared_ptr<PlanFallback> fallback)
      : plan_(std::move(plan)), name_(std::move(name)), options_(std::move(options)), fallback_(std::move(fallback)) {}

  std::string_view name() const override { return name_; }
  bool covers_the_rest() const override { return true; }

  std::size_t place(const Op& op, std::size_t next, bool begins) const override {
    std::size_t place = plan_.order().follow(op.name(), next);
    // A step may have begun, with a model's call, beside what else is under way.
    if (place == no_place && begins) place = plan_.order().beginning(op.name());
    if (place == no_place && next != no_place) say(op, next);
    return place;
  }

  RecipePtr decide(const Value& value, const Op& op, const BlockInfo& block) const override {
    const Choice* const choice = choice_of(value);
    if (choice == nullptr) return decides_instead(*value.producer()) ? instead().decide(value, op, block) : nullptr;
    switch (choice->way) {
      case Way::Replay:
        return replay(choice->nesting);
      case Way::Arena:
        return replay_into_arena(choice->arena);
      case Way::Fetch:
        return fetch(options_);
      case Way::Keep:
      case Way::Invert:  // when the coupling is recorded
      case Way::Other:
        return nullptr;
    }
    return nullptr;
  }

  bool keeps_optional(const Value& value, const Op& op, const BlockInfo& block) const override {
    const Node& maker = *value.producer();
    if (choice_of(value) != nullptr) return false;
    return !decides_instead(maker) || instead().keeps_optional(value, op, block);
  }

  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo& block) const override {
    const Node& maker = *value.producer();
    const bool is_outside = maker.policy == nullptr;  // made outside of the model
    if (offer.kind == Offer::Kind::EntersBlock) {
      if (is_outside || block.model || choice_of(value) != nullptr) return std::nullopt;
      return instead().reconsider(value, offer, block);
    }
    const Choice* const choice = is_outside ? nullptr : choice_of(value);
    const bool to_be_solved = choice != nullptr && choice->way == Way::Invert;
    if (offer.kind == Offer::Kind::Solvable && to_be_solved) return invert(*offer.node);
    // The coupling is what counts: the value may have been made outside of every block, or of the model.
    if (offer.node->place != no_place || !decides_instead(*offer.node)) return std::nullopt;
    return instead().reconsider(value, offer, block);
  }

 private:
  /// Null if the plan does not know the op that makes the value.
  const Choice* choice_of(const Value& value) const {
    const Node& maker = *value.producer();
    const PlannedOrder& order = plan_.order();
    const bool known = maker.place < order.size() && order.name(maker.place) == maker.op->name();
    return known ? plan_.at_place(maker.place, value.output()) : nullptr;
  }

  const Policy& instead() const { return *fallback_->policy; }
  /// True if the fallback decides about what an op makes that the plan does not know: it is in a block. All else is
  /// kept, as if the fallback had been set for the model in the plan's stead.
  static bool decides_instead(const Node& maker) { return maker.blocks > 0; }

  void say(const Op& op, std::size_t next) const {
    if (fallback_->said.exchange(true)) return;
    const PlannedOrder& order = plan_.order();
    const std::string text =
        concat_text("memory policy '", name_, "' was made for another step: op ", next, " is ", op.name(),
                    ", planned was ", next < order.size() ? order.name(next) : "none", "; such steps go on by '",
                    fallback_->policy->name(), "' and may need more memory than planned");
    if (fallback_->say) {
      fallback_->say(text);
    } else {
      std::cerr << text << '\n';
    }
  }

  Plan plan_;
  std::string name_;
  std::shared_ptr<const OffloadOptions> options_;
  std::shared_ptr<PlanFallback> fallback_;
};

}  // namespace

Plan::Plan(const StepTrace& step) : order_(std::make_shared<PlannedOrder>(step)) {
  std::vector<std::size_t> outputs(order_->size());
  for (std::size_t op = 0; op < step.ops.size(); ++op) {
    const std::size_t place = order_->place_of(static_cast<int>(op));
    if (place != no_place) outputs[place] = std::max(outputs[place], step.ops[op].outputs.size());
  }
  first_.push_back(0);
  for (const std::size_t count : outputs) first_.push_back(first_.back() + count);
  choices_.resize(first_.back());
}

const Choice* Plan::at_place(std::size_t place, std::size_t output) const {
  return place < order_->size() && output < first_[place + 1] - first_[place] ? &choices_[first_[place] + output]
                                                                              : nullptr;
}

Choice Plan::at(int op, int output) const {
  const Choice* const choice = at_place(order_->place_of(op), static_cast<std::size_t>(output));
  return choice != nullptr ? *choice : Choice{};
}

void Plan::set(int op, int output, const Choice& choice) {
  const std::size_t place = order_->place_of(op);
  if (place != no_place) choices_[first_[place] + static_cast<std::size_t>(output)] = choice;
}

std::size_t Plan::count(Way way) const {
  return static_cast<std::size_t>(
      std::count_if(choices_.begin(), choices_.end(), [way](const Choice& choice) { return choice.way == way; }));
}

PolicyPtr Plan::policy(std::string name, std::shared_ptr<const OffloadOptions> options,
                       std::shared_ptr<PlanFallback> fallback) const {
  return std::make_shared<PlannedPolicy>(*this, std::move(name), std::move(options), std::move(fallback));
}

}  // namespace palimpsest::memory
