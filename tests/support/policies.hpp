#pragma once

// Every policy that a graph can be run under, whatever it is made of.

#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <palimpsest/memory/policies.hpp>
#include "tests/support/user_policy.hpp"

namespace palimpsest::test {

/// The policy without the complaint that it finds nothing to act on.
class Lenient : public Policy {
 public:
  explicit Lenient(PolicyPtr policy) : policy_(std::move(policy)) {}

  std::string_view name() const override { return policy_->name(); }
  RecipePtr decide(const Value& value, const Op& op, const BlockInfo& block) const override {
    return policy_->decide(value, op, block);
  }
  bool keeps_optional(const Value& value, const Op& op, const BlockInfo& block) const override {
    return policy_->keeps_optional(value, op, block);
  }
  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo& block) const override {
    return policy_->reconsider(value, offer, block);
  }

 private:
  PolicyPtr policy_;
};

inline std::vector<PolicyPtr> all_policies() {
  std::vector<PolicyPtr> policies = {memory::store_all(),
                                     memory::shared(),
                                     memory::checkpoint(),
                                     memory::reversible(),
                                     user::offload(),
                                     user::keep_every_other(),
                                     memory::offload({.at_least = 0})};
  for (PolicyPtr& policy : policies) policy = std::make_shared<Lenient>(policy);
  return policies;
}

}  // namespace palimpsest::test
