// Orders of events in which a careless tape would hand out bytes that are gone or belong to another value: tensors held
// and read late, arenas under pressure, values used after the coupling that consumed them, policies that meet.

#include <gtest/gtest.h>

#include <palimpsest/memory/recipes.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/policies.hpp"
#include "tests/support/tape_support.hpp"
#include "tests/support/user_policy.hpp"

namespace palimpsest::test {
namespace {

using StaleReadTest = TapeTest;

constexpr int grid = 10;
const Shape image = {1, 2, 4, 4};

/// One number from an image, through a convolution whose gradient reads it.
Tensor score(const Tensor& x) { return ops::conv2d(x, random_parameter({1, 2, 4, 4}, 99)); }

Tensor conv(const Tensor& x, std::uint64_t seed) { return ops::conv2d(x, random_parameter({2, 2, 1, 1}, seed)); }

/// The gradient that reaches a fresh leaf through `graph`, and the loss.
std::vector<Bits> run(const std::function<Tensor(const Tensor&)>& graph) {
  const Tensor x = random_parameter(image, 7);
  const Tensor loss = graph(x);
  const Bits value = bits_of(loss);
  loss.backward();
  return {value, bits_of(x.grad())};
}

/// Runs a graph of blocks, whose policies it is given, under store-all and as told, and compares.
using BlockGraph = std::function<Tensor(const Tensor&, const std::vector<PolicyPtr>&)>;
void expect_same(const BlockGraph& graph, const std::vector<PolicyPtr>& policies) {
  const std::vector<PolicyPtr> plain(policies.size(), memory::store_all());
  const auto expected = run([&](const Tensor& x) { return graph(x, plain); });
  const auto found = run([&](const Tensor& x) { return graph(x, policies); });
  EXPECT_TRUE(found == expected);
}

// --- Arenas ----------------------------------------------------------------------------------------------------------

struct Held {
  Tensor tensor;
  Bits bits;
};

/// A block of `count` values that all live in arena 1, with convolutions between them; the user holds each.
Tensor crowd(const Tensor& x, int count, std::vector<Held>& held) {
  return in_block(memory::shared(), x, [&](Tensor y) {
    for (int i = 0; i < count; ++i) {
      y = ops::gelu(conv(y, static_cast<std::uint64_t>(i)));
      held.push_back({y, bits_of(y)});
    }
    return conv(y, 50);
  });
}

void expect_unchanged(const std::vector<Held>& held) {
  for (const Held& one : held) EXPECT_EQ(bits_of(one.tensor), one.bits);
}

TEST_F(StaleReadTest, HeldTenantsOfAnArenaReadTheSameAtAnyTime) {
  std::vector<Held> held;
  {
    const Tensor x = random_parameter(image, 7);
    const Tensor y = crowd(x, 5, held);
    EXPECT_FALSE(held[0].tensor.value().present());  // evicted by the next ones
    expect_unchanged(held);
    const Tensor loss = score(y);
    expect_unchanged(held);
    loss.backward();
    expect_unchanged(held);
  }
  expect_unchanged(held);
}

TEST_F(StaleReadTest, ATenantOfTheLastNodeSurvivesLeasesInBackward) {
  // The held one leaves its arena when its recipe ends; the earlier layers lease the arena after that.
  std::vector<Held> held;
  const Tensor x = random_parameter(image, 7);
  const Tensor y = crowd(x, 4, held);
  held.erase(held.begin(), held.begin() + 3);
  score(y).backward();
  expect_unchanged(held);
}

TEST_F(StaleReadTest, PinnedArenasLeadToAnother) {
  const Tensor x = random_parameter(image, 7);
  const Tensor loss = in_block(memory::shared(), x, [](Tensor y) {
    const Tensor a = ops::gelu(conv(y, 1));
    const Tensor b = ops::gelu(conv(y, 2));
    EXPECT_FALSE(a.value().present());
    EXPECT_EQ(Tape::current()->arenas().count(), 1U);
    // Both are tenants of one arena and both are read at once.
    const Tensor joined = ops::concat(std::vector<Tensor>{a, b});
    EXPECT_EQ(Tape::current()->arenas().count(), 2U);
    joined.view();
    EXPECT_EQ(Tape::current()->arenas().count(), 3U);  // and one for concatenations
    return score(conv(ops::add(a, b), 3));
  });
  loss.backward();
}

TEST_F(StaleReadTest, UnrecordedOpsHoldOnToWhatTheyRead) {
  const Tensor x = random_parameter(image, 7);
  std::vector<Held> held;
  const Tensor y = crowd(x, 4, held);
  const NoGrad no_grad;
  for (const Held& a : held) {
    for (const Held& b : held) {
      const Tensor sum = ops::add(a.tensor, b.tensor);  // restoring b evicts a
      const Tensor expected = ops::add(a.tensor.detach(), b.tensor.detach());
      EXPECT_EQ(bits_of(sum), bits_of(expected));
    }
  }
  expect_unchanged(held);
}

TEST_F(StaleReadTest, DetachedTenantsKeepTheirBytes) {
  std::vector<Held> held;
  const Tensor x = random_parameter(image, 7);
  const Tensor y = crowd(x, 4, held);
  for (Held& one : held) one.tensor = one.tensor.detach();
  expect_unchanged(held);
  score(y).backward();
  expect_unchanged(held);
}

TEST_F(StaleReadTest, ManyArenas) {
  class Many : public Policy {
   public:
    std::string_view name() const override { return "many arenas"; }
    RecipePtr decide(const Value& value, const Op&, const BlockInfo&) const override {
      return memory::replay_into_arena(static_cast<int>(value.producer()->index % 3));
    }
  };
  expect_same(
      [](const Tensor& x, const std::vector<PolicyPtr>& policies) {
        return score(in_block(policies[0], x, [](Tensor y) {
          std::vector<Tensor> all{y};
          for (std::uint64_t i = 0; i < 12; ++i) all.push_back(ops::relu(ops::add(conv(all.back(), i), all[i / 2])));
          return all.back();
        }));
      },
      {std::make_shared<Many>()});
}

// --- Policies that meet ----------------------------------------------------------------------------------------------

TEST_F(StaleReadTest, ATenantOfOneBlockEntersAnother) {
  for (const PolicyPtr& second : {memory::shared(), memory::checkpoint(), memory::reversible(), user::offload(),
                                  memory::offload({.at_least = 0})}) {
    expect_same(
        [](const Tensor& x, const std::vector<PolicyPtr>& policies) {
          Tensor y = in_block(policies[0], x, [](Tensor z) { return ops::relu(conv(z, 1)); });
          y = in_block(policies[1], std::move(y), [](Tensor z) {
            const Tensor f = ops::relu(conv(z, 2));
            return ops::couple(ops::round_to_grid(z, grid), conv(f, 3), grid);
          });
          return score(in_block(policies[0], std::move(y), [](Tensor z) { return ops::relu(conv(ops::relu(z), 4)); }));
        },
        {memory::shared(), second});
  }
}

TEST_F(StaleReadTest, AHeldTenantThatBecomesAStreamIsNotLost) {
  // The stream is the tenant of an arena when it becomes solvable. In backward it is there when the coupling's turn is
  // over; then `other` leases the arena, and then `early` reads the stream.
  for (const bool hold : {false, true}) {
    std::vector<Tensor> held;
    expect_same(
        [&](const Tensor& x, const std::vector<PolicyPtr>& policies) {
          const Tensor stream = in_block(policies[0], x, [](Tensor z) { return ops::round_to_grid(conv(z, 1), grid); });
          const Tensor early = conv(stream, 2);
          const Tensor other = in_block(policies[0], early, [](Tensor z) { return conv(ops::relu(z), 3); });
          if (hold) held.push_back(stream);
          const Tensor y = in_block(policies[1], stream, [&](Tensor z) { return ops::couple(z, other, grid); });
          return score(ops::add(conv(y, 4), early));
        },
        {memory::shared(), memory::reversible()});
    held.clear();
  }
}

TEST_F(StaleReadTest, PoliciesChangedBetweenForwardAndBackwardActFromTheNextForward) {
  nn::DenseNetOptions spec;
  spec.layers = {2};
  spec.growth_rate = 4;
  nn::DenseNet model(spec, nn::Init(1, device()));
  const Tensor images = random_tensor({2, 3, 4, 4}, 1);
  const Tensor labels = from_vector<std::int32_t>({2}, {1, 2});
  const Tensor loss = ops::cross_entropy(model(images), labels);
  model.set_memory(memory::reversible());  // finds nothing to act on in a DenseNet
  EXPECT_TRUE(idle_policies(loss).empty());
  EXPECT_NO_THROW(loss.backward());
  EXPECT_EQ(idle_policies(ops::cross_entropy(model(images), labels)), std::vector<std::string>{"'reversible'"});
}

TEST_F(StaleReadTest, NestedBlocks) {
  const std::vector<PolicyPtr> policies = {memory::store_all(),  memory::shared(), memory::checkpoint(),
                                           memory::reversible(), user::offload(),  memory::offload({.at_least = 0})};
  for (const PolicyPtr& outer : policies) {
    for (const PolicyPtr& inner : policies) {
      expect_same(
          [](const Tensor& x, const std::vector<PolicyPtr>& chosen) {
            return score(in_block(chosen[0], x, [&](Tensor y) {
              const Tensor stream = ops::round_to_grid(ops::relu(conv(y, 1)), grid);
              const auto branch = [](Tensor z) {
                const Tensor a = ops::round_to_grid(ops::relu(conv(z, 2)), grid);
                return ops::couple(a, ops::relu(conv(z, 3)), grid);
              };
              return ops::couple(stream, in_block(chosen[1], ops::relu(conv(y, 4)), branch), grid);
            }));
          },
          {outer, inner});
    }
  }
}

// --- Streams ---------------------------------------------------------------------------------------------------------

void expect_reversible(const std::function<Tensor(Tensor, const Tensor&)>& units) {
  expect_same(
      [&](const Tensor& x, const std::vector<PolicyPtr>& policies) {
        const Tensor other = ops::relu(conv(x, 11));
        return score(in_block(policies[0], ops::relu(conv(x, 12)),
                              [&](Tensor z) { return units(ops::round_to_grid(std::move(z), grid), other); }));
      },
      {memory::reversible()});
}

TEST_F(StaleReadTest, AStreamUsedAfterTheCouplingThatConsumedIt) {
  expect_reversible([](Tensor x, const Tensor& z) {
    const Tensor y = ops::couple(x, conv(z, 1), grid);
    const Tensor late = ops::relu(conv(x, 2));
    return ops::couple(y, late, grid);
  });
}

TEST_F(StaleReadTest, TwoStreamsThatWouldBeSolvedFromEachOther) {
  expect_reversible([](Tensor w, const Tensor& z) {
    const Tensor x = ops::couple(w, conv(z, 1), grid);
    const Tensor y = ops::couple(x, ops::relu(conv(w, 2)), grid);  // to solve for x takes w, which takes x
    return conv(y, 3);
  });
}

TEST_F(StaleReadTest, ABranchOfTheStreamItselfCannotBeUndone) {
  expect_reversible([](Tensor x, const Tensor&) {
    Tensor f = conv(ops::relu(x), 1);
    return ops::couple(std::move(x), std::move(f), grid);
  });
}

TEST_F(StaleReadTest, AStreamThatIsItsOwnBranchCannotBeUndone) {
  expect_reversible([](Tensor x, const Tensor&) {
    Tensor y = ops::couple(x, x, grid);
    x = {};
    return conv(ops::couple(y, y, grid), 1);
  });
}

TEST_F(StaleReadTest, TwoCouplingsOfOneStream) {
  expect_reversible([](Tensor x, const Tensor& z) {
    const Tensor a = ops::couple(x, conv(z, 1), grid);
    const Tensor b = ops::couple(x, conv(a, 2), grid);
    x = {};
    return ops::couple(conv(a, 3), conv(b, 4));
  });
}

TEST_F(StaleReadTest, ABranchThatIsHeldOrReadElsewhereIsNotOverwritten) {
  std::vector<Held> held;
  expect_reversible([&](Tensor x, const Tensor& z) {
    x = ops::couple(x, ops::relu(conv(x, 1)), grid);
    const Tensor f = ops::relu(conv(z, 2));
    held.push_back({f, bits_of(f)});
    const Tensor y = ops::couple(ops::round_to_grid(conv(x, 3), grid), f, grid);
    return ops::add(conv(y, 4), conv(f, 5));
  });
  expect_unchanged(held);
}

// --- Recipes that save -----------------------------------------------------------------------------------------------

/// Fetches everything, and replays branches: what was let go unsaved, because nobody was going to read it, must not
/// become the source of a replay.
class FetchThenReplay : public Policy {
 public:
  std::string_view name() const override { return "fetch, then replay"; }
  RecipePtr decide(const Value& value, const Op&, const BlockInfo& block) const override {
    class Heavy : public Watch {
     public:
      Heavy() : Watch({}, Cost::Heavy) {}
    };
    return fetching_->decide(value, Heavy(), block);
  }
  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo&) const override {
    switch (offer.kind) {
      case Offer::Kind::EntersBlock:
        return std::nullopt;
      case Offer::Kind::InsideBranch:
        return value.producer()->index % 2 == 0 ? std::optional(memory::replay()) : std::nullopt;
      case Offer::Kind::Solvable:
        return memory::invert(*offer.node);
    }
    return std::nullopt;
  }

 private:
  PolicyPtr fetching_ = user::offload();
};

TEST_F(StaleReadTest, WhatWasLetGoUnsavedIsNoSource) {
  for (const bool shifted : {false, true}) {
    expect_same(
        [&](const Tensor& x, const std::vector<PolicyPtr>& policies) {
          return score(in_block(policies[0], x, [&](Tensor y) {
            const Tensor stream = ops::round_to_grid(ops::relu(conv(y, 1)), grid);
            Tensor f = conv(shifted ? ops::relu(y) : y, 2);
            f = [&] {
              const Tensor unread = ops::add(f, y);
              return ops::relu(unread);
            }();
            return ops::couple(stream, conv(f, 3), grid);
          }));
        },
        {std::make_shared<FetchThenReplay>()});
  }
}

/// The gradient of a tanh reads its result: where that was changed in place it must not be used, and where it is made
/// again the change has no part in it.
TEST_F(StaleReadTest, AResultThatWasChangedInPlaceIsNotReadByItsOwnOp) {
  for (const PolicyPtr& policy : all_policies()) {
    SCOPED_TRACE(std::string(policy->name()));
    const auto step = [&](bool changes) {
      const Tensor x = random_parameter(image, 1);
      const Tensor y = in_block(policy, x, [&](Tensor z) {
        const Tensor h = ops::tanh(z);
        const Tensor scaled = ops::scale(h, 3);
        if (changes) h.detach().assign(random_tensor(image, 2));
        return scaled;
      });
      score(y).backward();
      return bits_of(x.grad());
    };
    const Bits expected = step(false);
    try {
      EXPECT_TRUE(step(true) == expected);
    } catch (const StateError& error) {
      EXPECT_NE(std::string(error.what()).find("[tanh] output 0 (1, 2, 4, 4) was changed"), std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace palimpsest::test
