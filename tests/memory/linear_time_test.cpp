// The work of a step grows with the number of its ops, under every policy that makes values again.

#include <gtest/gtest.h>

#include <memory>

#include <palimpsest/autograd/observer.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/linear.hpp>
#include "tests/support/policies.hpp"
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

/// Counts the runs of a step by which values come back.
class Restored : public Observer {
 public:
  void run_begins(const OpRun& run) override {
    count += run.kind == RunKind::Replay || run.kind == RunKind::Fetch ? 1 : 0;
  }
  double count = 0;

 private:
  ObserverScope scope_{this};
};

std::vector<PolicyPtr> policies() {
  const PolicyPtr offload = memory::offload({.at_least = 0});
  std::vector<PolicyPtr> all = {memory::shared(), memory::checkpoint(), offload};
  for (const PolicyPtr& other : {memory::checkpoint(), memory::reversible(), offload}) {
    all.push_back(memory::compose(other, memory::shared()));
    all.push_back(memory::compose(memory::shared(), other));
  }
  return all;
}

/// A chain of so many ReLUs in a block. Returns the runs that it takes to bring values back, and the gradient.
std::pair<double, Bits> restored_in_chain(const PolicyPtr& policy, int ops) {
  const Tensor x = random_parameter({1, 8}, 1);
  Tensor y = in_block(policy, x, [&](Tensor z) {
    for (int i = 0; i < ops; ++i) z = ops::relu(std::move(z));
    return z;
  });
  const Tensor loss = ops::linear(std::move(y), random_tensor({1, 8}, 2), zeros({1}));
  const Restored restored;
  loss.backward();
  return {restored.count, bits_of(x.grad())};
}

using LinearTimeTest = TapeTest;

TEST_F(LinearTimeTest, AChainOfCheapOpsIsMadeAgainInProportionToItsLength) {
  for (const PolicyPtr& policy : policies()) {
    SCOPED_TRACE(policy->name());
    const auto [first_runs, first_gradient] = restored_in_chain(policy, 100);
    const double each = first_runs / 100;
    EXPECT_LE(each, 8);
    for (const int ops : {1000, emulated() ? 2000 : 10000}) {
      const auto [runs, gradient] = restored_in_chain(policy, ops);
      EXPECT_NEAR(runs / ops, each, 0.2 * each);
      EXPECT_TRUE(gradient == first_gradient);  // a ReLU of a ReLU changes nothing
    }
  }
}

/// The identity, which counts how often somebody looks at it.
class LookedAt : public Watch {
 public:
  explicit LookedAt(double& looks) : Watch([](Moment) {}), looks_(looks) {}
  Cost cost() const override {
    ++looks_;
    return Cost::Cheap;
  }

 private:
  double& looks_;
};

/// Looks at the ops of a chain in forward, of which the user holds each value until the next is there. `heavy`: the
/// chain begins with a heavy op.
double looks_in_chain(const PolicyPtr& policy, int ops, bool heavy) {
  double looks = 0;
  const Tensor x = random_parameter({1, 8}, 1);
  const Tensor y = in_block(policy, x, [&](Tensor z) {
    if (heavy)
      z = watch(
          std::move(z), [](Moment) {}, Cost::Heavy);
    for (int i = 0; i < ops; ++i) z = ops::silu(apply_single(std::make_unique<LookedAt>(looks), {z}));
    return z;
  });
  return looks;
}

TEST_F(LinearTimeTest, ALeaseLooksAtNoMoreOfALongChainThanOfAShortOne) {
  for (const PolicyPtr& policy : policies()) {
    for (const bool heavy : {false, true}) {
      const double each = looks_in_chain(policy, 200, heavy) / 200;
      const double of_many = looks_in_chain(policy, 1000, heavy) / 1000;
      EXPECT_LE(of_many, 1.3 * each) << policy->name() << (heavy ? ", heavy" : "");
    }
  }
}

}  // namespace
}  // namespace palimpsest::test
