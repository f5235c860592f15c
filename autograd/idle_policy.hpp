#pragma once

#include <palimpsest/core/error.hpp>

namespace palimpsest {

/// A memory policy, or a part of one, has nothing to act on in a model.
class IdlePolicyError : public ValueError {
 public:
  using ValueError::ValueError;
};

}  // namespace palimpsest
