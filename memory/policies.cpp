#include <palimpsest/memory/policies.hpp>

#include <algorithm>
#include <array>

#include <palimpsest/memory/recipes.hpp>

namespace palimpsest::memory {
namespace {

class StoreAll : public Policy {
 public:
  std::string_view name() const override { return "store-all"; }
  bool keeps_everything() const override { return true; }
  RecipePtr decide(const Value&, const Op&, const BlockInfo&) const override { return nullptr; }
  bool keeps_optional(const Value&, const Op&, const BlockInfo&) const override { return true; }
};

class StoreAllOfModel : public StoreAll {
 public:
  bool covers_the_rest() const override { return true; }
};

/// An arena forgets what it held, so every value in one is made again from the last that is kept, and a chain of n such
/// values would take n^2 / 2 runs. A value is kept if bringing it back would write more than so many times its bytes.
constexpr std::size_t most_rewritten = 8;

/// True if bringing the value back, with an output in an arena, writes no more than that.
bool is_near_kept(const Value& value) {
  const std::size_t most = most_rewritten * value.bytes();
  std::size_t written = value.bytes();
  std::vector<const Node*> pending{value.producer()};
  std::vector<const Value*> seen;
  while (!pending.empty()) {
    const Node& node = *pending.back();
    pending.pop_back();
    for (const ValuePtr& input : node.inputs) {
      // One with memory of its own stays once it is back.
      if (input->recipe() == nullptr || input->recipe()->arena() < 0) continue;
      if (std::find(seen.begin(), seen.end(), input.get()) != seen.end()) continue;
      written += input->bytes();
      if (written > most) return false;
      seen.push_back(input.get());
      pending.push_back(input->producer());
    }
  }
  return true;
}

class Shared : public Policy {
 public:
  std::string_view name() const override { return "shared"; }
  bool acts_on(const Op& op) const override {
    return op.needs().optional_outputs != 0 || (op.cost() == Cost::Cheap && op.solvable_input() < 0);
  }

  RecipePtr decide(const Value& value, const Op& op, const BlockInfo&) const override {
    std::size_t input_bytes = 0;
    std::size_t streams = 0;
    for (const ValuePtr& input : value.producer()->inputs) {
      if (input->leaf() && input->requires_grad()) continue;  // a parameter is there anyway
      input_bytes += input->bytes();
      ++streams;
    }
    const std::optional<int> arena = shared_arena(op.cost(), value.bytes(), input_bytes, streams);
    return arena && is_near_kept(value) ? arenas_[static_cast<std::size_t>(*arena)] : nullptr;
  }

 private:
  std::array<RecipePtr, 2> arenas_ = {replay_into_arena(joins_arena), replay_into_arena(rest_arena)};
};

class Checkpoint : public Policy {
 public:
  std::string_view name() const override { return "checkpoint"; }
  RecipePtr decide(const Value&, const Op&, const BlockInfo&) const override { return replay(); }

  std::optional<RecipePtr> reconsider(const Value&, const Offer& offer, const BlockInfo&) const override {
    if (offer.kind == Offer::Kind::EntersBlock) return nullptr;
    return std::nullopt;
  }
};

class Reversible : public Policy {
 public:
  std::string_view name() const override { return "reversible"; }
  bool acts_on(const Op& op) const override { return op.solvable_input() >= 0; }
  RecipePtr decide(const Value&, const Op&, const BlockInfo&) const override { return nullptr; }

  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo&) const override {
    switch (offer.kind) {
      case Offer::Kind::EntersBlock:
        return std::nullopt;
      case Offer::Kind::InsideBranch:
        return value.producer()->op->solvable_input() < 0 ? std::optional(replay()) : std::nullopt;
      case Offer::Kind::Solvable:
        return invert(*offer.node);
    }
    return std::nullopt;
  }
};

class Offload : public Policy {
 public:
  explicit Offload(const OffloadOptions& options) : options_(std::make_shared<const OffloadOptions>(options)) {}

  std::string_view name() const override { return "offload"; }
  RecipePtr decide(const Value& value, const Op&, const BlockInfo&) const override {
    return value.bytes() < options_->at_least ? nullptr : fetch(options_);
  }
  bool offloads() const override { return true; }

 private:
  std::shared_ptr<const OffloadOptions> options_;
};

/// The library's policies in the order in which names() has them.
const std::array<PolicyPtr, 5>& built_in() {
  static const std::array<PolicyPtr, 5> policies = {std::make_shared<StoreAll>(), std::make_shared<Shared>(),
                                                    std::make_shared<Checkpoint>(), std::make_shared<Reversible>(),
                                                    std::make_shared<Offload>(OffloadOptions{})};
  return policies;
}

/// True if restoring by this recipe takes nothing but what the recipe has saved.
bool stands_alone(const Recipe* recipe, const Value& value) {
  return recipe != nullptr && recipe->via(value) == nullptr && recipe->sources(value).empty();
}

/// See compose().
class Composed : public Policy {
 public:
  Composed(PolicyPtr outer, PolicyPtr inner)
      : outer_(std::move(outer)), inner_(std::move(inner)), name_(concat_text(outer_->name(), "+", inner_->name())) {}

  std::string_view name() const override { return name_; }
  bool acts_on(const Op& op) const override { return outer_->acts_on(op) || inner_->acts_on(op); }

  RecipePtr decide(const Value& value, const Op& op, const BlockInfo& block) const override {
    RecipePtr recipe = inner_->decide(value, op, block);
    if (recipe != nullptr && recipe->arena() >= 0 && keeps_input_for_it(value, op)) {
      RecipePtr other = outer_->decide(value, op, block);
      if (other != nullptr) return other;
    }
    return recipe != nullptr ? recipe : outer_->decide(value, op, block);
  }

  bool keeps_optional(const Value& value, const Op& op, const BlockInfo& block) const override {
    return outer_->keeps_optional(value, op, block) && inner_->keeps_optional(value, op, block);
  }

  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo& block) const override {
    const bool inner_has_decided = value.producer() != nullptr && value.recipe() != nullptr &&
                                   value.producer()->block.get() == &block &&
                                   inner_->decide(value, *value.producer()->op, block) != nullptr;
    if (offer.kind == Offer::Kind::InsideBranch && inner_has_decided) return std::nullopt;
    std::optional<RecipePtr> recipe = outer_->reconsider(value, offer, block);
    if (!recipe) recipe = inner_->reconsider(value, offer, block);
    const bool to_be_kept = recipe && *recipe == nullptr;
    return offer.kind == Offer::Kind::EntersBlock && to_be_kept ? kept_or_moved(value) : recipe;
  }

  std::vector<const Policy*> parts() const override {
    std::vector<const Policy*> all = outer_->parts();
    const std::vector<const Policy*> others = inner_->parts();
    all.insert(all.end(), others.begin(), others.end());
    return all;
  }

 private:
  /// True if a value in an arena, which may be evicted at any time, would hold on to an input that came back in memory
  /// of its own and is read by nothing else. In memory of its own the value takes that input's place.
  static bool keeps_input_for_it(const Value& value, const Op& op) {
    const int over = op.overwritable_input();
    if (over < 0 || op.needs().input(static_cast<std::size_t>(over))) return false;
    const Value& input = *value.producer()->inputs[static_cast<std::size_t>(over)];
    return input.recipe() != nullptr && input.recipe()->arena() < 0 && input.readers() == 0;
  }

  /// The answer for a value that enters a block and whose bytes the block's replay will want.
  std::optional<RecipePtr> kept_or_moved(const Value& value) const {
    const Node* const maker = value.producer();
    if (maker == nullptr || maker->block == nullptr || value.recipe() == nullptr) return nullptr;
    for (const PolicyPtr& part : {inner_, outer_}) {
      RecipePtr recipe = part->decide(value, *maker->op, *maker->block);
      if (!stands_alone(recipe.get(), value)) continue;
      // One that it has already may have saved the bytes.
      return stands_alone(value.recipe(), value) ? std::nullopt : std::optional(std::move(recipe));
    }
    return nullptr;
  }

  PolicyPtr outer_;
  PolicyPtr inner_;
  std::string name_;
};

}  // namespace

PolicyPtr compose(PolicyPtr outer, PolicyPtr inner) {
  return std::make_shared<Composed>(std::move(outer), std::move(inner));
}

PolicyPtr store_all() { return built_in()[0]; }
PolicyPtr store_all_of_model() {
  static const PolicyPtr policy = std::make_shared<StoreAllOfModel>();
  return policy;
}
PolicyPtr shared() { return built_in()[1]; }
PolicyPtr checkpoint() { return built_in()[2]; }
PolicyPtr reversible() { return built_in()[3]; }
PolicyPtr offload() { return built_in()[4]; }
PolicyPtr offload(const OffloadOptions& options) { return std::make_shared<Offload>(options); }

bool offloads(const Policy& policy) {
  const std::vector<const Policy*> parts = policy.parts();
  return std::any_of(parts.begin(), parts.end(), [](const Policy* part) { return part->offloads(); });
}

std::optional<int> shared_arena(Cost cost, std::size_t bytes, std::size_t input_bytes, std::size_t streams) {
  if (cost == Cost::Heavy || bytes < input_bytes) return std::nullopt;
  return streams > 1 ? joins_arena : rest_arena;
}

std::vector<PolicyPtr> combinations(const OffloadOptions& options) {
  return {store_all(),
          shared(),
          checkpoint(),
          reversible(),
          compose(checkpoint(), shared()),
          compose(reversible(), shared()),
          offload(options)};
}

std::vector<std::string_view> names() {
  std::vector<std::string_view> all;
  for (const PolicyPtr& policy : built_in()) all.push_back(policy->name());
  return all;
}

}  // namespace palimpsest::memory
