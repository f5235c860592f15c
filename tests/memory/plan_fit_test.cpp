// Plans in steps that are not the planned one: whatever differs, the bits are those of keeping everything, the budget
// is held where it can be, and it is said once.

#include <gtest/gtest.h>

#include <algorithm>

#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/training.hpp"

namespace palimpsest::test {
namespace {

using memory::Candidate;
using memory::Planner;

/// A residual unit whose branch may be left out.
class Unit : public nn::Block<Tensor(Tensor)> {
 public:
  Unit(std::uint64_t seed, Device where) {
    const auto add = [&](const char* name, const Shape& shape) {
      return add_parameter(name, parameter(shape, seed++, where));
    };
    weight_ = add("weight", {8, 8, 3, 3});
    gamma_ = add("gamma", {8});
    beta_ = add("beta", {8});
    running_ = {add_buffer("mean", parameter({8}, seed, where)), add_buffer("variance", parameter({8}, seed, where))};
  }
  static Tensor parameter(const Shape& shape, std::uint64_t seed, Device where) {
    if (is_meta(where)) return Tensor::empty(shape, Dtype::Float32, where, Tag::Parameter);
    return random_tensor(shape, seed, Tag::Parameter);
  }
  bool left_out = false;

 protected:
  Tensor forward(Tensor x) override {
    if (left_out) return x;
    Tensor y = ops::batch_norm(x, gamma_, beta_, running_, {.training = training(), .relu = true});
    y = ops::relu(ops::conv2d(std::move(y), weight_, {.padding = ops::Padding::all(1)}));
    return ops::add(std::move(x), std::move(y));
  }

 private:
  Tensor weight_, gamma_, beta_;
  ops::RunningStatistics running_;
};

/// Two units in a block of their own, in which they are blocks again.
class Pair : public nn::Block<Tensor(Tensor)> {
 public:
  Pair(std::uint64_t seed, Device where) : first_(seed, where), second_(seed + 5, where) {
    add_module("first", first_);
    add_module("second", second_);
  }

 protected:
  Tensor forward(Tensor x) override { return second_(first_(std::move(x))); }

 private:
  Unit first_, second_;
};

Tensor loss_of(nn::Classifier& net, Device where, std::uint64_t seed) {
  const Shape shape{4, 3, 10, 10};
  const Tensor images =
      is_meta(where) ? Tensor::empty(shape, Dtype::Float32, where, Tag::Data) : random_tensor(shape, 200 + seed);
  return ops::cross_entropy(net(images), Tensor::zeros({4}, Dtype::Int32, where, Tag::Data));
}

/// A stem, six units or other blocks, and a head.
template <class Block>
class NetOf : public nn::Classifier {
 public:
  explicit NetOf(Device where) : where_(where) {
    stem_ = add_parameter("stem", Unit::parameter({8, 3, 3, 3}, 1, where));
    head_ = add_parameter("head", Unit::parameter({4, 8}, 2, where));
    bias_ = add_parameter("bias", Unit::parameter({4}, 3, where));
    for (std::size_t i = 0; i < 6; ++i) {
      units.push_back(std::make_unique<Block>(10 * i + 10, where));
      add_module(concat_text("unit", i), *units.back());
    }
  }
  std::vector<std::unique_ptr<Block>> units;

  Tensor loss(std::uint64_t seed) { return loss_of(*this, where_, seed); }
  std::vector<Bits> state() const {
    std::vector<Bits> bits;
    for (const auto& [name, parameter] : parameters()) bits.push_back(bits_of(parameter.grad()));
    for (const auto& [name, buffer] : buffers()) bits.push_back(bits_of(buffer));
    return bits;
  }

 protected:
  Tensor forward(Tensor x) override {
    x = ops::conv2d(std::move(x), stem_, {.padding = ops::Padding::all(1)});
    for (const auto& unit : units) x = (*unit)(std::move(x));
    return ops::linear(ops::global_avg_pool(x), head_, bias_);
  }

 private:
  Device where_;
  Tensor stem_, head_, bias_;
};
using Net = NetOf<Unit>;

class PlanFitTest : public TapeTest {
 protected:
  /// The candidates of a plan for a usual step.
  static std::vector<Candidate> candidates() {
    Net net(meta_device());
    const memory::Rehearsal rehearsal{meta_device(), [&net](const PolicyPtr& policy) {
                                        if (policy != nullptr) net.set_memory(policy);
                                        for (const auto& parameter : net.parameters()) parameter.tensor.zero_grad();
                                        net.loss(1).backward();
                                      }};
    rehearsal.step(nullptr);
    return Planner(rehearsal, memory::Rates::standard(Device::Cpu)).candidates();
  }

  /// Runs the steps under every candidate: what they leave is what they leave under store-all.
  static void expect_exact(const std::function<void(Net&)>& steps) {
    Net stored(device());
    steps(stored);
    const std::vector<Bits> expected = stored.state();
    for (const Candidate& candidate : candidates()) {
      Net net(device());
      net.set_memory(candidate.policy);
      steps(net);
      EXPECT_TRUE(net.state() == expected) << candidate.forecast.peak;
    }
  }

  /// The peak of a step, without gradients of steps before, above what was live before it.
  static std::size_t peak_of(nn::Module& net, const std::function<void()>& step) {
    for (const auto& parameter : net.parameters()) parameter.tensor.zero_grad();
    const std::size_t before = live_bytes();
    test_allocator().reset_peak();
    step();
    return test_allocator().stats().peak - before;
  }
};

template <class Block>
std::unique_ptr<nn::Classifier> make_chain(Device where) {
  return std::make_unique<NetOf<Block>>(where);
}

std::unique_ptr<nn::Classifier> make_revnet(Device where) {
  nn::ResidualOptions spec;
  spec.units = {3, 3};
  spec.filters = {8, 16};
  spec.stem_channels = 8;
  spec.grid = 16;
  return std::make_unique<nn::RevNet>(spec, nn::Init(1, where));
}

/// A plan for a step of this net on meta; it keeps everything, and its fallback is this policy.
PolicyPtr plan_that_falls_back_to(const PolicyPtr& policy, nn::Classifier& net) {
  const memory::Rehearsal rehearsal{meta_device(), [&](const PolicyPtr& used) {
                                      net.set_memory(used);
                                      loss_of(net, meta_device(), 1).backward();
                                    }};
  auto fallback = std::make_shared<memory::PlanFallback>();
  fallback->policy = policy;
  fallback->said = true;
  const memory::Plan plan(memory::rehearse(rehearsal, memory::store_all_of_model()));
  return plan.policy("plan", std::make_shared<memory::OffloadOptions>(), fallback);
}

void freeze_the_stem(nn::Classifier& net) {
  Tensor stem = net.parameters().front().tensor;
  stem.requires_grad(false);
}

/// The stem is still as planned, and so is what a block does in front of its first normalisation.
void evaluate_with_gradients(nn::Classifier& net) { net.train(false); }

TEST_F(PlanFitTest, AStepThatGoesOnByTheFallbackTakesWhatItTakesUnderThatPolicy) {
  const auto peak_under = [](const PolicyPtr& policy, const auto& make, const auto& change) {
    const std::unique_ptr<nn::Classifier> net = make(device());
    net->set_memory(policy);
    loss_of(*net, device(), 1).backward();
    change(*net);
    return peak_of(*net, [&] { loss_of(*net, device(), 1).backward(); });
  };
  for (const auto& make : {make_chain<Unit>, make_chain<Pair>, make_revnet}) {
    for (const PolicyPtr& policy : memory::combinations()) {
      const PolicyPtr plan = plan_that_falls_back_to(policy, *make(meta_device()));
      EXPECT_EQ(peak_under(plan, make, freeze_the_stem), peak_under(policy, make, freeze_the_stem)) << policy->name();
      if (make == make_revnet) continue;
      const std::size_t expected = peak_under(policy, make, evaluate_with_gradients);
      EXPECT_EQ(peak_under(plan, make, evaluate_with_gradients), expected) << policy->name();
    }
  }
}

void leave_out(Net& net, unsigned which) {
  for (std::size_t i = 0; i < net.units.size(); ++i) net.units[i]->left_out = (which >> i & 1U) != 0;
}

TEST_F(PlanFitTest, BlocksMayBeLeftOutAtRandom) {
  expect_exact([](Net& net) {
    for (const unsigned which : {0U, 1U, 0b100000U, 0b010010U, 0b111111U, 0U}) {
      leave_out(net, which);
      net.loss(which).backward();
    }
  });
}

TEST_F(PlanFitTest, BlocksThatAreLeftOutTakeNoMoreMemoryThanPlanned) {
  for (const Candidate& candidate : candidates()) {
    Net net(device());
    net.set_memory(candidate.policy);
    const std::size_t planned = peak_of(net, [&] { net.loss(1).backward(); });
    for (unsigned which = 1; which < 64; which += 5) {
      leave_out(net, which);
      EXPECT_LE(peak_of(net, [&] { net.loss(1).backward(); }), planned) << which;
    }
    leave_out(net, 0);
    EXPECT_EQ(peak_of(net, [&] { net.loss(1).backward(); }), planned);
  }
}

TEST_F(PlanFitTest, EvaluationModeHasGradientsToo) {
  expect_exact([](Net& net) {
    net.loss(1).backward();
    net.train(false);
    net.loss(2).backward();
    net.train(true);
    net.loss(3).backward();
  });
}

TEST_F(PlanFitTest, AStepIsAsPlannedThoughASkippedLossIsHeld) {
  expect_exact([](Net& net) {
    Tensor loss;
    for (std::uint64_t step = 0; step < 4; ++step) {
      loss = net.loss(step);
      if (step != 1) loss.backward();
    }
  });
  for (const Candidate& candidate : candidates()) {
    Net net(device());
    net.set_memory(candidate.policy);
    const std::size_t planned = peak_of(net, [&] { net.loss(1).backward(); });
    const Tensor skipped = net.loss(2);
    EXPECT_EQ(peak_of(net, [&] { net.loss(1).backward(); }), planned);
  }
}

TEST_F(PlanFitTest, ItIsSaidOnce) {
  const std::vector<Candidate> all = candidates();
  const auto planned = std::find_if(all.begin(), all.end(), [](const Candidate& one) { return one.planned; });
  ASSERT_NE(planned, all.end());
  Net net(device());
  net.set_memory(planned->policy);
  testing::internal::CaptureStderr();
  net.loss(1).backward();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  for (const unsigned which : {2U, 4U}) {
    leave_out(net, which);
    net.loss(1).backward();
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_NE(said.find("memory policy 'budget' was made for another step: op "), std::string::npos) << said;
}

}  // namespace
}  // namespace palimpsest::test
