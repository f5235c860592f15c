#include <palimpsest/memory/planner/plan.hpp>

#include <algorithm>

#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/recipes.hpp>

namespace palimpsest::memory {

class PlannedPolicy : public Policy {
 public:
  PlannedPolicy(Plan plan, std::string name) : plan_(std::move(plan)), name_(std::move(name)) {}

  std::string_view name() const override { return name_; }
  bool covers_the_rest() const override { return true; }

  RecipePtr decide(const Value& value, const Op& op, const BlockInfo&) const override {
    const std::size_t index = value.producer()->index;
    const auto& names = *plan_.op_names_;
    if (index >= names.size() || names[index] != op.name()) {
      throw StateError(concat_text("memory policy '", name_, "' was made for another model: op ", index, " is ",
                                   op.name(), ", planned was ", index < names.size() ? names[index] : "none"));
    }
    switch (choice(value)) {
      case Choice::Replay:
        return replay(nesting(value));
      case Choice::ArenaOfJoins:
        return joined_;
      case Choice::Arena:
        return normalised_;
      case Choice::Offload:
        return fetch();
      case Choice::Keep:
      case Choice::Invert:
        return nullptr;
    }
    return nullptr;
  }

  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo&) const override {
    if (offer.kind == Offer::Kind::Solvable && choice(value) == Choice::Invert) return invert(*offer.node);
    return std::nullopt;
  }

 private:
  Choice choice(const Value& value) const {
    return plan_.at(static_cast<int>(value.producer()->index), static_cast<int>(value.output()));
  }
  int nesting(const Value& value) const {
    return plan_.nesting(static_cast<int>(value.producer()->index), static_cast<int>(value.output()));
  }

  Plan plan_;
  std::string name_;
  RecipePtr joined_ = replay_into_arena(0);
  RecipePtr normalised_ = replay_into_arena(1);
};

Plan::Plan(const StepTrace& step) {
  auto names = std::make_shared<std::vector<std::string>>();
  for (const StepTrace::Op& op : step.ops) {
    first_.push_back(entries_.size());
    entries_.resize(entries_.size() + op.outputs.size());
    names->push_back(op.name);
  }
  op_names_ = std::move(names);
}

std::size_t Plan::count(Choice choice) const {
  return static_cast<std::size_t>(
      std::count_if(entries_.begin(), entries_.end(), [choice](const Entry& entry) { return entry.choice == choice; }));
}

PolicyPtr Plan::policy(std::string name) const { return std::make_shared<PlannedPolicy>(*this, std::move(name)); }

}  // namespace palimpsest::memory
