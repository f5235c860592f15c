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
    const std::vector<std::string>& names = plan_.op_names();
    if (next < names.size() && names[next] == op.name()) return next;
    if (begins) {
      // A step has begun, with a model's call, beside what else is under way.
      const auto first = std::find(names.begin(), names.end(), op.name());
      if (first != names.end()) return static_cast<std::size_t>(first - names.begin());
    }
    if (next != no_place) say(op, next);
    return no_place;
  }

  RecipePtr decide(const Value& value, const Op& op, const BlockInfo& block) const override {
    const Choice* const choice = choice_of(value);
    if (choice == nullptr) return fallback_->policy->decide(value, op, block);
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

  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo& block) const override {
    const Choice* const choice = choice_of(value);
    if (choice == nullptr) return fallback_->policy->reconsider(value, offer, block);
    if (offer.kind == Offer::Kind::Solvable && choice->way == Way::Invert) return invert(*offer.node);
    return std::nullopt;
  }

 private:
  /// Null if the plan does not know the op that makes the value.
  const Choice* choice_of(const Value& value) const {
    const Node& maker = *value.producer();
    const std::vector<std::string>& names = plan_.op_names();
    if (maker.place >= names.size() || names[maker.place] != maker.op->name()) return nullptr;
    return &plan_.at(static_cast<int>(maker.place), static_cast<int>(value.output()));
  }

  void say(const Op& op, std::size_t next) const {
    if (fallback_->said.exchange(true)) return;
    const std::vector<std::string>& names = plan_.op_names();
    const std::string text =
        concat_text("memory policy '", name_, "' was made for another step: op ", next, " is ", op.name(),
                    ", planned was ", next < names.size() ? names[next] : "none", "; such steps go on by '",
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

Plan::Plan(const StepTrace& step) {
  auto names = std::make_shared<std::vector<std::string>>();
  for (const StepTrace::Op& op : step.ops) {
    first_.push_back(choices_.size());
    choices_.resize(choices_.size() + op.outputs.size());
    names->push_back(op.name);
  }
  op_names_ = std::move(names);
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
