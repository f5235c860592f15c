#pragma once

// A net with all that a step may change (weights, running statistics, a generator), under every policy.

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/memory/planner/plan.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/policies.hpp"
#include "tests/support/training.hpp"

namespace palimpsest::test {

class Injected : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using Watcher = std::function<void(Moment)>;

/// Convolution, normalisation and dropout, twice, in blocks; between them `between` is called.
class Net : public nn::Model<Tensor(Tensor)> {
 public:
  Net(std::uint64_t seed, std::int64_t in, std::int64_t out)
      : first_(*this, seed, in, 4), second_(*this, seed + 9, 4, out) {
    add_module("first", first_);
    add_module("second", second_);
  }

  std::function<void()> between = [] {};
  Watcher watcher;  ///< of an op between the blocks

  std::vector<Bits> state() const {
    std::vector<Bits> bits;
    for (const auto& [name, parameter] : parameters()) bits.push_back(bits_of(parameter.grad()));
    for (const auto& [name, buffer] : buffers()) bits.push_back(bits_of(buffer));
    bits.emplace_back(generator_->offset);
    return bits;
  }

 protected:
  Tensor forward(Tensor x) override {
    x = first_(std::move(x));
    between();
    if (watcher) x = watch(std::move(x), watcher);
    return second_(std::move(x));
  }

 private:
  class Layer : public nn::Block<Tensor(Tensor)> {
   public:
    Layer(Net& net, std::uint64_t seed, std::int64_t in, std::int64_t out) : net_(net) {
      weight_ = add_parameter("weight", random_tensor({out, in, 3, 3}, seed, Tag::Parameter));
      gamma_ = add_parameter("gamma", random_tensor({out}, seed + 1, Tag::Parameter));
      beta_ = add_parameter("beta", random_tensor({out}, seed + 2, Tag::Parameter));
      running_ = {add_buffer("mean", random_tensor({out}, seed + 3, Tag::Parameter)),
                  add_buffer("variance", random_tensor({out}, seed + 4, Tag::Parameter))};
    }

   protected:
    Tensor forward(Tensor x) override {
      x = ops::conv2d(std::move(x), weight_, {.padding = ops::Padding::all(1)});
      x = ops::batch_norm(std::move(x), gamma_, beta_, running_, {.training = training(), .relu = true});
      x = ops::relu(std::move(x));
      return training() ? ops::dropout(std::move(x), 0.2, net_.generator_) : x;
    }

   private:
    Net& net_;
    Tensor weight_, gamma_, beta_;
    ops::RunningStatistics running_;
  };

  std::shared_ptr<Generator> generator_ = std::make_shared<Generator>(Generator{3, 40});
  Layer first_, second_;
};

inline Tensor images(std::uint64_t seed) { return random_tensor({2, 3, 6, 6}, 100 + seed); }
inline Tensor loss_of(const Tensor& features) {
  return ops::cross_entropy(ops::global_avg_pool(features), from_vector<std::int32_t>({2}, {0, 1}));
}

/// Replays what the step of a net makes, but for every third value.
inline PolicyPtr plan_of_a_step() {
  Net net(1, 3, 3);
  net.set_memory(memory::store_all_of_model());
  memory::StepRecorder recorder(device());
  loss_of(net(images(1))).backward();
  const memory::StepTrace step = recorder.take();
  memory::Plan plan(step);
  for (std::size_t op = 0; op < step.ops.size(); ++op) {
    if (op % 3 != 2 && !step.ops[op].inputs.empty()) plan.set(static_cast<int>(op), 0, {.way = Way::Replay});
  }
  auto quiet = std::make_shared<memory::PlanFallback>();
  quiet->say = [](const std::string&) {};
  return plan.policy("plan", std::make_shared<memory::OffloadOptions>(), std::move(quiet));
}

inline std::vector<PolicyPtr> every_policy() {
  std::vector<PolicyPtr> policies = all_policies();
  policies.push_back(memory::compose(memory::checkpoint(), memory::shared()));
  policies.push_back(memory::compose(memory::offload({.at_least = 0}), memory::shared()));
  policies.push_back(plan_of_a_step());
  return policies;
}

class SideBySideTest : public TapeTest {
 protected:
  /// Calls test(policy) for every policy, and once with every byte that comes back compared.
  template <class Test>
  static void under_every_policy(const Test& test) {
    for (const PolicyPtr& policy : every_policy()) {
      SCOPED_TRACE(policy->name());
      test(policy);
      const VerifyScope verified(Verify::All);
      test(policy);
    }
  }
};

/// A net under a policy.
struct Case {
  Case(const PolicyPtr& policy, std::uint64_t seed = 1, std::int64_t in = 3, std::int64_t out = 3)
      : net(seed, in, out) {
    net.set_memory(policy);
  }
  Tensor loss(std::uint64_t seed) { return loss_of(net(images(seed))); }
  std::vector<Bits> after(const std::vector<std::uint64_t>& steps) {
    for (const std::uint64_t seed : steps) loss(seed).backward();
    return net.state();
  }
  Net net;
};

}  // namespace palimpsest::test
