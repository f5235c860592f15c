#include <palimpsest/memory/planner/plan.hpp>

#include <algorithm>

#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/recipes.hpp>

namespace palimpsest::memory {

namespace {

class PlannedPolicy : public Policy {
 public:
  PlannedPolicy(Plan plan, std::string name, std::shared_ptr<const OffloadOptions> options)
      : plan_(std::move(plan)), name_(std::move(name)), options_(std::move(options)) {}

  std::string_view name() const override { return name_; }
  bool covers_the_rest() const override { return true; }

  RecipePtr decide(const Value& value, const Op& op, const BlockInfo&) const override {
    const std::size_t index = value.producer()->index;
    const std::vector<std::string>& names = plan_.op_names();
    if (index >= names.size() || names[index] != op.name()) {
      throw StateError(concat_text("memory policy '", name_, "' was made for another model: op ", index, " is ",
                                   op.name(), ", planned was ", index < names.size() ? names[index] : "none"));
    }
    const Choice& choice = choice_of(value);
    switch (choice.way) {
      case Way::Replay:
        return replay(choice.nesting);
      case Way::Arena:
        return replay_into_arena(choice.arena);
      case Way::Fetch:
        return fetch(options_);
      case Way::Keep:
      case Way::Invert:  // when the coupling is recorded
      case Way::Other:
        return nullptr;
    }
    return nullptr;
  }

  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo&) const override {
    if (offer.kind == Offer::Kind::Solvable && choice_of(value).way == Way::Invert) return invert(*offer.node);
    return std::nullopt;
  }

 private:
  const Choice& choice_of(const Value& value) const {
    return plan_.at(static_cast<int>(value.producer()->index), static_cast<int>(value.output()));
  }

  Plan plan_;
  std::string name_;
  std::shared_ptr<const OffloadOptions> options_;
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

PolicyPtr Plan::policy(std::string name, std::shared_ptr<const OffloadOptions> options) const {
  return std::make_shared<PlannedPolicy>(*this, std::move(name), std::move(options));
}

}  // namespace palimpsest::memory
