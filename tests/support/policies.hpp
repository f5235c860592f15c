#pragma once

// Every policy that a graph can be run under, whatever it is made of.

#include <vector>

#include <palimpsest/memory/policies.hpp>
#include "tests/support/user_policy.hpp"

namespace palimpsest::test {

inline std::vector<PolicyPtr> all_policies() {
  return {memory::store_all(),
          memory::shared(),
          memory::checkpoint(),
          memory::reversible(),
          user::offload(),
          user::keep_every_other(),
          memory::offload({.at_least = 0})};
}

}  // namespace palimpsest::test
