// Whole models under verification: sound ones pass and give the bits they give without; whatever goes wrong anywhere in
// what is restored is found, named, and leaves no trace.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/memory/recipes.hpp>
#include "tests/support/disturbed_op.hpp"
#include "tests/support/policies.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/training.hpp"

namespace palimpsest::test {
namespace {

using MakeTraining = std::function<Training(const PolicyPtr&)>;

Training revnet_on_grid(const PolicyPtr& policy) { return revnet(policy, 12); }
Training revnet_without_grid(const PolicyPtr& policy) { return revnet(policy, std::nullopt); }

const Tape& tape_of(const Tensor& loss) { return *loss.handle()->tape; }

using VerifyModelTest = TapeTest;

// --- Sound steps pass ------------------------------------------------------------------------------------------------

std::vector<Bits> three_steps(const MakeTraining& make, const PolicyPtr& policy, Verify verify) {
  const VerifyScope scope(verify);
  Training training = make(policy);
  for (int step = 0; step < 3; ++step) training.step();
  return training.state();
}

void expect_sound(const MakeTraining& make) {
  for (const PolicyPtr& policy : all_policies()) {
    SCOPED_TRACE(policy->name());
    const std::vector<Bits> expected = three_steps(make, policy, Verify::Off);
    EXPECT_TRUE(three_steps(make, policy, Verify::Sampled) == expected);
    EXPECT_TRUE(three_steps(make, policy, Verify::All) == expected);
  }
}

TEST_F(VerifyModelTest, ASoundDenseNetPassesUnderEveryPolicy) { expect_sound(densenet); }
TEST_F(VerifyModelTest, ASoundRevNetOnAGridPassesUnderEveryPolicy) { expect_sound(revnet_on_grid); }
// Values that are solved up to rounding, and all that is made from them, are not compared.
TEST_F(VerifyModelTest, ASoundRevNetWithoutAGridPassesUnderEveryPolicy) { expect_sound(revnet_without_grid); }

class VerifiedRandomGraph : public TapeTest, public ::testing::WithParamInterface<std::uint64_t> {};

TEST_P(VerifiedRandomGraph, PassesUnderEveryPolicy) {
  const std::uint64_t tried = emulated() ? 2 : 15;
  const VerifyScope scope(Verify::All);
  for (std::uint64_t seed = GetParam() * tried; seed < (GetParam() + 1) * tried; ++seed) {
    const auto two_steps = [seed](const PolicyPtr& policy) {
      RandomGraph graph(seed);
      const auto same = [&](int) { return policy; };
      std::vector<Outcome> outcomes{graph.step(same)};
      outcomes.push_back(graph.step(same));
      return outcomes;
    };
    const std::vector<Outcome> expected = two_steps(memory::store_all());
    for (const PolicyPtr& policy : all_policies()) {
      EXPECT_TRUE(two_steps(policy) == expected) << "seed " << seed << ", " << policy->name();
    }
    for (const std::uint64_t salt : {1, 2, 3}) {
      EXPECT_TRUE(two_steps(chaos(salt)) == expected) << "seed " << seed << ", salt " << salt;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, VerifiedRandomGraph, ::testing::Range<std::uint64_t>(0, 4));

// --- Whatever goes wrong is found ------------------------------------------------------------------------------------

/// Two steps, the second of which is disturbed after its forward; then the same step again.
class DisturbedStep {
 public:
  DisturbedStep(const MakeTraining& make, const PolicyPtr& policy) : make_(make), policy_(policy) {
    Training sound = make_(policy_);
    sound.step();
    sound.sgd().zero_grad();
    const Tensor loss = sound.forward();
    for (const Node& node : tape_of(loss).nodes()) {
      for (const ValuePtr& output : node.outputs) {
        if (output->present() && output->recipe() == nullptr) kept_.insert(output.get());
      }
      disturb(node, [this, &node](Op& op, ForwardContext& io) {
        replayed_.push_back(node.index);
        for (const ValuePtr& input : node.inputs) {
          if (kept_.contains(input.get()) && input->output() == 0) kept_sources_.insert(input->producer()->index);
        }
        op.forward(io);
      });
    }
    loss.backward();
    sound.sgd().step();
    expected_ = sound.state();
    kept_.clear();
  }

  /// The nodes that are run again, in that order.
  const std::vector<std::size_t>& replayed() const { return replayed_; }
  /// The nodes whose results those read that are kept.
  std::vector<std::size_t> kept_sources() const { return {kept_sources_.begin(), kept_sources_.end()}; }

  /// Returns the message of the failure.
  std::string fails(const std::function<void(const Tape&)>& interfere) const {
    Training training = make_(policy_);
    training.step();
    training.sgd().zero_grad();
    const std::vector<Bits> before = training.state();
    const std::size_t live = live_bytes();
    Tensor loss = training.forward();
    interfere(tape_of(loss));
    std::string message = message_of<VerificationError>([&] { loss.backward(); });
    EXPECT_THROW(loss.backward(), StateError);
    loss = {};
    EXPECT_TRUE(training.state() == before);
    EXPECT_EQ(live_bytes(), live);
    training.step();
    EXPECT_TRUE(training.state() == expected_);
    return message;
  }

 private:
  MakeTraining make_;
  PolicyPtr policy_;
  std::vector<std::size_t> replayed_;
  std::set<const Value*> kept_;
  std::set<std::size_t> kept_sources_;
  std::vector<Bits> expected_;
};

/// Every so many of these.
std::vector<std::size_t> some_of(const std::vector<std::size_t>& all) {
  if (!emulated()) return all;
  std::vector<std::size_t> some;
  for (std::size_t i = 0; i < all.size(); i += all.size() / 3 + 1) some.push_back(all[i]);
  return some;
}

/// The beginning of the message.
std::string origin(const Node& node) {
  return concat_text("[", node.op->name(), "] in ", node.block->name, ": output 0 ", node.outputs[0]->shape());
}

void expect_every_fault_found(const MakeTraining& make, const PolicyPtr& policy, std::size_t least_replays) {
  SCOPED_TRACE(policy->name());
  const VerifyScope scope(Verify::All);
  const DisturbedStep step(make, policy);
  EXPECT_GE(step.replayed().size(), least_replays);
  EXPECT_FALSE(step.kept_sources().empty());
  for (const std::size_t index : some_of(step.replayed())) {
    std::string expected;
    const std::string message = step.fails([&](const Tape& tape) {
      const Node& node = tape.nodes()[index];
      expected = origin(node) + ", restored by replay";
      disturb(node, [](Op& op, ForwardContext& io) {
        op.forward(io);
        flip_bit(written(io), 8 * written(io).bytes() - 3);
      });
    });
    EXPECT_TRUE(message.starts_with(expected)) << message << "\nexpected " << expected;
  }
  for (const std::size_t index : some_of(step.kept_sources())) {
    std::string expected;
    const std::string message = step.fails([&](const Tape& tape) {
      const Node& node = tape.nodes()[index];
      expected = concat_text("[", node.op->name(), "]");
      flip_bit(node.outputs[0]->view(), 77);
    });
    EXPECT_TRUE(message.starts_with(expected)) << message << "\nexpected " << expected;
    EXPECT_NE(message.find("is not any more what it was in forward"), std::string::npos) << message;
  }
}

TEST_F(VerifyModelTest, EveryFlippedBitInADenseNetIsFoundWhereItHappened) {
  expect_every_fault_found(densenet, memory::checkpoint(), 10);
  expect_every_fault_found(densenet, memory::shared(), 2);
  expect_every_fault_found(densenet, user::keep_every_other(), 2);
}

TEST_F(VerifyModelTest, EveryFlippedBitInARevNetIsFoundWhereItHappened) {
  expect_every_fault_found(revnet_on_grid, memory::reversible(), 12);
  expect_every_fault_found(revnet_on_grid, memory::checkpoint(), 10);
}

TEST_F(VerifyModelTest, AParameterThatChangesBehindOurBackIsNamed) {
  const VerifyScope scope(Verify::All);
  Training training = densenet(memory::checkpoint());
  const Tensor loss = training.forward();
  // Under a checkpoint every op of a block is run again, and with it the last that reads a parameter.
  const Value* parameter = nullptr;
  for (const Node& node : tape_of(loss).nodes()) {
    if (node.op->cost() != Cost::Heavy || node.block == nullptr) continue;
    for (const ValuePtr& input : node.inputs) {
      if (input->leaf() && input->requires_grad()) parameter = input.get();
    }
    if (parameter != nullptr) break;
  }
  ASSERT_NE(parameter, nullptr);
  flip_bit(parameter->view(), 5);
  const std::string message = message_of<VerificationError>([&] { loss.backward(); });
  EXPECT_TRUE(message.starts_with(concat_text("a leaf ", parameter->shape(), " is not any more"))) << message;
  flip_bit(parameter->view(), 5);
}

// --- Memory ----------------------------------------------------------------------------------------------------------

std::size_t peak_of_step(Device device, Verify verify) {
  const VerifyScope scope(verify);
  nn::RevNet model(nn::RevNet::cifar(14), nn::Init(0, device));
  model.set_memory(memory::checkpoint());
  nn::Sgd sgd(model.parameters(), {});
  const Tensor images = Tensor::zeros({2, 3, 32, 32}, Dtype::Float32, device, Tag::Data);
  const Tensor labels = Tensor::zeros({2}, Dtype::Int32, device, Tag::Data);
  for (int step = 0; step < 2; ++step) {
    allocator(device).reset_peak();
    sgd.zero_grad();
    ops::cross_entropy(model(images), labels).backward();
    sgd.step();
  }
  return allocator(device).stats().peak - allocator(device).stats().live;
}

TEST_F(VerifyModelTest, MemoryIsForecastToTheByte) {
  const std::size_t off = peak_of_step(meta_device(), Verify::Off);
  for (const Verify verify : {Verify::Sampled, Verify::All}) {
    const std::size_t forecast = peak_of_step(meta_device(), verify);
    EXPECT_EQ(peak_of_step(device(), verify), forecast) << to_string(verify);
    if (device() == Device::Cpu) {
      EXPECT_EQ(forecast, off);  // fingerprints of the host's bytes are no tensor memory
    } else {
      EXPECT_GT(forecast, off);
      EXPECT_LT(forecast, off + (64 << 10));
    }
  }
}

}  // namespace
}  // namespace palimpsest::test
