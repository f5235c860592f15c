// Running out of memory anywhere in a training step, the optimiser's included, leaves no trace. A limit on a whole step
// only ever stops it at a new maximum of its memory; here one is set anew at every decision of the policy, at every
// restoring and at every op of backward, so that allocations far below the step's peak fail as well: five of six. The
// others follow, in one op, a larger one that is gone again by then.

#include <gtest/gtest.h>

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/forwarding.hpp"
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using OutOfMemoryTest = TapeTest;

using Hook = std::function<void()>;

std::size_t peak_bytes() { return test_allocator().stats().peak; }

// --- A policy that tells when memory is about to be asked for --------------------------------------------------------

class Told : public ForwardingRecipe {
 public:
  Told(RecipePtr recipe, const Hook& hook) : ForwardingRecipe(std::move(recipe)), hook_(hook) {}

  void restore(Restoring& restoring) override {
    hook_();
    ForwardingRecipe::restore(restoring);
  }

 private:
  const Hook& hook_;
};

/// Decides what another policy decides, and calls `hook` before each decision and each restoring.
class Telling : public Policy {
 public:
  Telling(PolicyPtr policy, const Hook& hook) : policy_(std::move(policy)), hook_(hook) {}

  std::string_view name() const override { return policy_->name(); }
  bool acts_on(const Op& op) const override { return policy_->acts_on(op); }
  RecipePtr decide(const Value& value, const Op& op, const BlockInfo& block) const override {
    hook_();
    return told(policy_->decide(value, op, block));
  }
  bool keeps_optional(const Value& value, const Op& op, const BlockInfo& block) const override {
    return policy_->keeps_optional(value, op, block);
  }
  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo& block) const override {
    const std::optional<RecipePtr> recipe = policy_->reconsider(value, offer, block);
    return recipe ? std::optional(told(*recipe)) : std::nullopt;
  }

 private:
  RecipePtr told(RecipePtr recipe) const {
    return recipe != nullptr ? std::make_shared<Told>(std::move(recipe), hook_) : nullptr;
  }

  PolicyPtr policy_;
  const Hook& hook_;
};

/// Calls `hook` before whatever a recorded op does in backward.
class TellingOp : public ForwardingOp {
 public:
  TellingOp(std::unique_ptr<Op> op, const Hook& hook) : ForwardingOp(std::move(op)), hook_(hook) {}

  void forward(ForwardContext& io) override {
    hook_();
    op().forward(io);
  }
  void backward(BackwardContext& io) override {
    hook_();
    op().backward(io);
  }

 private:
  const Hook& hook_;
};

void wrap_recorded_ops(const Tape& tape, const Hook& hook) {
  for (const Node& node : tape.nodes()) {
    replace_op(node, [&](std::unique_ptr<Op> op) { return std::make_unique<TellingOp>(std::move(op), hook); });
  }
}

// --- A training step in two halves -----------------------------------------------------------------------------------

/// Weights, buffers and random counters. The optimiser's memory shows in the weights after the next step.
struct State {
  std::vector<Bits> bits;
  std::uint64_t counter = 0;
  bool operator==(const State&) const = default;
};

class Training {
 public:
  Training(std::unique_ptr<nn::Classifier> model, const nn::Init& init, PolicyPtr policy)
      : model_(std::move(model)),
        generator_(init.dropout_generator()),
        sgd_(model_->parameters(), {.learning_rate = 0.05}) {
    model_->set_memory(std::make_shared<Telling>(std::move(policy), *hook_));
  }

  void set_hook(Hook hook) { *hook_ = std::move(hook); }

  void compute_gradients() {
    sgd_.zero_grad();
    (*hook_)();
    const Tensor loss = ops::cross_entropy((*model_)(images_), labels_);
    (*hook_)();
    wrap_recorded_ops(*loss.handle()->tape, *hook_);
    loss.backward();
  }
  void update_weights() {
    (*hook_)();
    sgd_.step();
  }
  void step() {
    compute_gradients();
    update_weights();
  }

  void zero_grad() { sgd_.zero_grad(); }
  bool has_gradients() const {
    for (const auto& [name, parameter] : model_->parameters()) {
      if (parameter.grad()) return true;
    }
    return false;
  }
  State state() const {
    State state;
    for (const auto& [name, parameter] : model_->parameters()) state.bits.push_back(bits_of(parameter));
    for (const auto& [name, buffer] : model_->buffers()) state.bits.push_back(bits_of(buffer));
    state.counter = generator_->offset;
    return state;
  }

 private:
  std::unique_ptr<Hook> hook_ = std::make_unique<Hook>([] {});  // where it is stays where it is
  std::unique_ptr<nn::Classifier> model_;
  std::shared_ptr<Generator> generator_;
  nn::Sgd sgd_;
  Tensor images_ = random_tensor({2, 3, 8, 8}, 9);
  Tensor labels_ = from_vector<std::int32_t>({2}, {0, 3});
};

Training densenet() {
  nn::DenseNetOptions spec;
  spec.layers = {2, 1};
  spec.growth_rate = 4;
  spec.stem_channels = 8;
  spec.dropout = 0.2;
  const nn::Init init(5, device());
  return {std::make_unique<nn::DenseNet>(spec, init), init, memory::shared()};
}

Training revnet() {
  nn::ResidualOptions spec;
  spec.units = {2, 1};
  spec.filters = {8, 16};
  spec.stem_channels = 8;
  spec.grid = 12;
  const nn::Init init(5, device());
  return {std::make_unique<nn::RevNet>(spec, init), init, memory::reversible()};
}

// --- Failing everywhere ----------------------------------------------------------------------------------------------

/// Every way in which one step of a training can run out of memory, after `steps_before` others.
class Failures {
 public:
  Failures(Training (*make)(), int steps_before) : make_(make), steps_before_(steps_before) {
    Training training = started();
    training.set_hook([&] {
      peaks_.push_back(peak_bytes());
      test_allocator().reset_peak();
    });
    training.step();
    peaks_.erase(peaks_.begin());  // of what was before the first moment
    peaks_.push_back(peak_bytes());
    training.set_hook([] {});
    after_ = training.state();
    training.step();
    after_next_ = training.state();
  }

  /// Between each moment at which the hook is called and the next one, lowers the limit from one maximum of the live
  /// bytes to the one below until no allocation is left that could fail. Returns how many did.
  int fail_everywhere() const {
    int failures = 0;
    for (std::size_t moment = 0; moment < peaks_.size(); ++moment) {
      std::size_t peak = peaks_[moment];
      while (const std::optional<std::size_t> below = fail_at(moment, peak)) {
        ++failures;
        peak = *below;
      }
    }
    return failures;
  }

 private:
  Training started() const {
    Training training = make_();
    for (int i = 0; i < steps_before_; ++i) training.step();
    training.zero_grad();
    return training;
  }

  /// Fails the allocation that would lift the live bytes to `peak` after that moment. Returns the highest that they
  /// were until then; nothing if they were not below it when the moment came.
  std::optional<std::size_t> fail_at(std::size_t moment, std::size_t peak) const {
    Training training = started();
    std::size_t left = moment;
    bool too_high = false;
    training.set_hook([&] {
      if (left-- != 0) return;
      test_allocator().reset_peak();
      too_high = live_bytes() >= peak;
      if (!too_high) test_allocator().set_limit(peak - 1);
    });
    const std::size_t reached = expect_no_trace(training, too_high);
    return too_high ? std::nullopt : std::optional(reached);
  }

  std::size_t expect_no_trace(Training& training, const bool& too_high) const {
    const State before = training.state();
    const std::size_t live = live_bytes();
    const bool computed = succeeds([&] { training.compute_gradients(); });
    if (computed) return expect_weights_alone(training, too_high);
    const std::size_t reached = peak_bytes();
    EXPECT_TRUE(training.state() == before);
    EXPECT_FALSE(training.has_gradients());
    EXPECT_EQ(live_bytes(), live);
    training.set_hook([] {});
    training.step();
    expect_undisturbed(training);
    return reached;
  }

  /// The second half of the step fails, if any: it can be repeated alone.
  std::size_t expect_weights_alone(Training& training, const bool& too_high) const {
    const State before = training.state();
    const std::size_t live = live_bytes();
    const bool updated = succeeds([&] { training.update_weights(); });
    EXPECT_EQ(updated, too_high) << "the step went on beyond its limit";
    const std::size_t reached = peak_bytes();
    training.set_hook([] {});
    if (!updated) {
      EXPECT_TRUE(training.state() == before);
      EXPECT_EQ(live_bytes(), live);
      training.update_weights();
    }
    expect_undisturbed(training);
    return reached;
  }

  void expect_undisturbed(Training& training) const {
    EXPECT_TRUE(training.state() == after_);
    training.step();
    EXPECT_TRUE(training.state() == after_next_);
  }

  static bool succeeds(const std::function<void()>& action) {
    bool succeeded = true;
    try {
      action();
    } catch (const OutOfMemory&) {
      succeeded = false;
    }
    test_allocator().set_limit(0);
    return succeeded;
  }

  Training (*make_)();
  int steps_before_;
  std::vector<std::size_t> peaks_;  // between a moment and the next
  State after_;
  State after_next_;
};

/// The first step, in which the optimiser asks for memory, and a later one, in which it has something to lose.
void expect_no_trace_of_failures(Training (*make)()) {
  for (const int steps_before : {0, 2}) {
    SCOPED_TRACE(steps_before);
    const Failures failures(make, steps_before);
    const int count = failures.fail_everywhere();
    EXPECT_GE(count, 90);
    ::testing::Test::RecordProperty("failures_after_" + std::to_string(steps_before), count);
  }
}

TEST_F(OutOfMemoryTest, AnywhereInADenseNetsStepItLeavesNoTrace) { expect_no_trace_of_failures(densenet); }
TEST_F(OutOfMemoryTest, AnywhereInARevNetsStepItLeavesNoTrace) { expect_no_trace_of_failures(revnet); }

}  // namespace
}  // namespace palimpsest::test
