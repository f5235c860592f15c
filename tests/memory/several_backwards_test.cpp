// Budgets for steps with several backward calls, one after the other or side by side: planned on meta, kept to the byte
// on the device, with the bits of store-all, and never taken for another step.

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/ops/mse_loss.hpp>
#include "tests/support/plain_nets.hpp"
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using memory::Candidate;
using memory::Planner;
using memory::StepTrace;

constexpr std::int64_t side = 10;
constexpr PlainNetOptions plain{.blocks = 2, .layers = 3, .norm = Norm::After, .channels = 8};
constexpr PlainNetOptions chain{.blocks = 1, .layers = 7, .dropout = 0.2, .channels = 8};

/// Blocks, and in front of its result a convolution to `out` channels outside of them.
class Stage : public nn::Model<Tensor(Tensor)> {
 public:
  Stage(nn::Init init, const PlainNetOptions& spec, std::int64_t in, std::int64_t out)
      : last_(init, spec.channels, out, {.kernel = 3, .padding = ops::Padding::all(1)}) {
    for (int i = 0; i < spec.blocks; ++i) {
      blocks_.push_back(std::make_unique<PlainBlock>(init, spec, i == 0 ? in : spec.channels));
      add_module("block" + std::to_string(i + 1), *blocks_.back());
    }
    add_module("last", last_);
  }

 protected:
  Tensor forward(Tensor x) override {
    for (const auto& block : blocks_) x = (*block)(std::move(x));
    return ops::tanh(last_(std::move(x)));
  }

 private:
  std::vector<std::unique_ptr<PlainBlock>> blocks_;
  nn::Conv2d last_;
};

/// Models in training, under one policy, on a device.
class Models : public nn::Module {
 public:
  explicit Models(Device device) : device_(device) {
    const nn::Init init(5, device);
    make("a", first, std::make_unique<PlainNet>(plain, init));
    make("b", second, std::make_unique<PlainNet>(chain, init));
    make("generator", generator, std::make_unique<Stage>(init, plain, 2, 3));
    make("trunk", trunk, std::make_unique<Stage>(init, plain, 3, 3));
  }

  Tensor noise(std::int64_t samples, std::int64_t channels, std::uint64_t seed) const {
    const Shape shape{samples, channels, side, side};
    return is_meta(device_) ? Tensor::empty(shape, Dtype::Float32, device_, Tag::Data) : random_tensor(shape, seed);
  }
  Tensor classes(std::int64_t samples) const { return Tensor::zeros({samples}, Dtype::Int32, device_, Tag::Data); }
  Tensor loss(nn::Classifier& model, std::int64_t samples, std::uint64_t seed) const {
    return ops::cross_entropy(model(noise(samples, 3, seed)), classes(samples));
  }
  Tensor loss(nn::Classifier& model, Tensor images) const {
    const std::int64_t samples = images.shape()[0];
    return ops::cross_entropy(model(std::move(images)), classes(samples));
  }

  std::unique_ptr<PlainNet> first, second;
  std::unique_ptr<Stage> generator, trunk;

 private:
  template <class Model>
  void make(const char* name, std::unique_ptr<Model>& member, std::unique_ptr<Model> model) {
    member = std::move(model);
    add_module(name, *member);
  }

  Device device_;
};

/// The forwards and backwards of a step.
struct Case {
  std::string name;
  std::function<void(Models&)> step;
  std::size_t sessions;
};

/// The gradient of a batch of so many samples, gathered over micro-batches.
Case micro_batches(const std::string& name, const std::vector<std::int64_t>& shares) {
  const auto step = [shares](Models& models) {
    for (std::size_t i = 0; i < shares.size(); ++i)
      ops::scale(models.loss(*models.first, shares[i], i), static_cast<double>(shares[i]) / 8).backward();
  };
  return {name, step, shares.size()};
}

/// Each stage has a loss of its own, which the stage before is not trained by.
void train_two_heads(Models& models, bool first_to_last) {
  const Tensor features = (*models.trunk)(models.noise(4, 3, 1));
  const Tensor early = ops::mse_loss(features, models.noise(4, 3, 2));
  const Tensor late = models.loss(*models.second, features.detach());
  (first_to_last ? early : late).backward();
  (first_to_last ? late : early).backward();
}

void train_both(Models& models, bool first_to_last) {
  const Tensor a = models.loss(*models.first, 4, 1);
  const Tensor b = models.loss(*models.second, 4, 2);
  (first_to_last ? a : b).backward();
  (first_to_last ? b : a).backward();
}

/// The discriminator learns from real and from made images, then the generator through it.
void train_adversaries(Models& models) {
  const Tensor made = (*models.generator)(models.noise(4, 2, 1));
  const Tensor real = models.loss(*models.first, 4, 2);
  ops::add(real, models.loss(*models.first, made.detach())).backward();
  models.loss(*models.first, made).backward();
}

/// The same with a backward of each loss, and images made for each.
void train_adversaries_apart(Models& models) {
  models.loss(*models.first, 4, 2).backward();
  const auto make = [&] {
    const NoGrad no_grad;
    return (*models.generator)(models.noise(3, 2, 1));
  };
  models.loss(*models.first, make()).backward();
  models.loss(*models.first, (*models.generator)(models.noise(4, 2, 3))).backward();
}

/// The next micro-batch runs forward before the one before it runs backward.
void train_overlapping(Models& models) {
  Tensor before = models.loss(*models.first, 3, 0);
  for (std::uint64_t i = 1; i < 4; ++i) {
    Tensor next = models.loss(*models.first, 3, i);
    std::exchange(before, std::move(next)).backward();
  }
  before.backward();
}

std::vector<Case> cases() {
  return {micro_batches("OneBatch", {8}),
          micro_batches("TwoMicroBatches", {4, 4}),
          micro_batches("FourMicroBatches", {2, 2, 2, 2}),
          micro_batches("UnequalMicroBatches", {5, 3}),
          micro_batches("GrowingMicroBatches", {3, 5}),
          {"TwoHeads", [](Models& models) { train_two_heads(models, true); }, 1},
          {"TwoHeadsLastFirst", [](Models& models) { train_two_heads(models, false); }, 1},
          {"TwoModels", [](Models& models) { train_both(models, true); }, 1},
          {"TwoModelsNested", [](Models& models) { train_both(models, false); }, 1},
          {"TwoModelsInTurn",
           [](Models& models) {
             models.loss(*models.first, 4, 1).backward();
             models.loss(*models.second, 4, 2).backward();
           },
           2},
          {"Adversaries", train_adversaries, 1},
          {"AdversariesApart", train_adversaries_apart, 3},
          {"Overlapping", train_overlapping, 1}};
}

/// Runs steps of a case.
class Steps {
 public:
  Steps(const Case& one, Device device) : step_(one.step), models_(device) {}

  void step(const PolicyPtr& policy) {
    if (policy != nullptr) models_.set_memory(policy);
    sgd_.zero_grad();
    step_(models_);
    sgd_.step();
  }
  Models& models() { return models_; }

  /// Parameters, momentum and buffers after two steps.
  std::string digest_under(const PolicyPtr& policy) {
    for (int i = 0; i < 2; ++i) step(policy);
    return models_.state_digest();
  }

 private:
  std::function<void(Models&)> step_;
  Models models_;
  nn::Sgd sgd_{models_.parameters(), {.learning_rate = 0.05, .momentum = 0.9}};
};

class SeveralBackwardsTest : public TapeTest, public testing::WithParamInterface<Case> {
 protected:
  memory::Rehearsal rehearsal_of(Steps& run) {
    run.step(memory::store_all());
    return {meta_device(), [&run](const PolicyPtr& policy) { run.step(policy); }};
  }

  /// Bytes at the peak of the second step on the device, above what was live before the run.
  static std::size_t measure(Steps& run, const PolicyPtr& policy, std::size_t before) {
    run.step(policy);
    test_allocator().reset_peak();
    run.step(policy);
    return test_allocator().stats().peak - before;
  }
};

TEST_P(SeveralBackwardsTest, TheRecordTellsItsSessionsApart) {
  Steps run(GetParam(), meta_device());
  const StepTrace step = memory::rehearse(rehearsal_of(run), memory::store_all_of_model());
  const std::vector<StepTrace::Session> sessions = step.sessions();
  EXPECT_EQ(sessions.size(), GetParam().sessions);
  std::size_t peak = 0;
  for (const StepTrace::Session& session : sessions) peak = std::max(peak, session.peak);
  EXPECT_EQ(peak, step.peak().bytes);
  EXPECT_EQ(sessions.back().runs.end, step.runs.size());
  EXPECT_EQ(sessions.back().events.end, step.events.size());
  for (std::size_t op = 0; op < step.ops.size(); ++op) {
    for (const int output : step.ops[op].outputs) EXPECT_EQ(step.value(output).op, static_cast<int>(op));
    for (const int input : step.ops[op].inputs) {
      const int maker = step.value(input).op;
      EXPECT_LT(maker, static_cast<int>(op)) << step.ops[op].name;
      const int session = maker >= 0 ? step.op(maker).session : step.ops[op].session;
      EXPECT_EQ(session, step.ops[op].session) << step.ops[op].name;
    }
  }
}

TEST_P(SeveralBackwardsTest, EveryPlanIsFollowedToTheByteWithTheSameBits) {
  Steps planned(GetParam(), meta_device());
  testing::internal::CaptureStderr();
  const Planner planner(rehearsal_of(planned), memory::Rates::standard(Device::Cpu));
  const std::string expected = Steps(GetParam(), device()).digest_under(memory::store_all());
  const std::size_t before = live_bytes();
  std::size_t plans = 0;
  for (const Candidate& candidate : planner.candidates()) {
    Steps run(GetParam(), device());
    EXPECT_EQ(measure(run, candidate.policy, before), candidate.forecast.peak) << plans;
    EXPECT_EQ(run.models().state_digest(), expected) << plans;
    plans += candidate.planned ? 1 : 0;
  }
  EXPECT_GE(plans, 3U);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "a planned step is not another one";
}

TEST_P(SeveralBackwardsTest, EveryBudgetFromTheLeastToStoreAllsPeakIsKept) {
  Steps planned(GetParam(), meta_device());
  const memory::Rehearsal rehearsal = rehearsal_of(planned);
  const memory::Rates rates = memory::Rates::standard(Device::Cpu);
  const Planner planner(rehearsal, rates);
  const std::size_t least = planner.candidates().front().forecast.peak;
  const std::size_t most = memory::forecast(rehearsal, memory::store_all(), rates).peak;
  std::size_t thriftiest = most;
  for (const PolicyPtr& policy : memory::combinations()) {
    if (!memory::offloads(*policy)) thriftiest = std::min(thriftiest, memory::forecast(rehearsal, policy, rates).peak);
  }
  EXPECT_LE(least, thriftiest);
  double seconds = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i <= 20; ++i) {
    const std::size_t budget = least + (most - least) * i / 20;
    const Candidate& chosen = planner.within(budget);
    EXPECT_LE(chosen.forecast.peak, budget);
    EXPECT_LE(chosen.forecast.seconds, seconds);
    seconds = chosen.forecast.seconds;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, SeveralBackwardsTest, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

/// The peaks of the plans of a case.
std::vector<Candidate> candidates_of(const Case& one) {
  Steps run(one, meta_device());
  run.step(memory::store_all());
  const memory::Rehearsal rehearsal{meta_device(), [&run](const PolicyPtr& policy) { run.step(policy); }};
  return Planner(rehearsal, memory::Rates::standard(Device::Cpu)).candidates();
}

class MicroBatchTest : public TapeTest {};

TEST_F(MicroBatchTest, GatheringOverMicroBatchesCanDoWithLess) {
  const std::size_t whole = candidates_of(micro_batches("", {8})).front().forecast.peak;
  const std::size_t halves = candidates_of(micro_batches("", {4, 4})).front().forecast.peak;
  const std::size_t quarters = candidates_of(micro_batches("", {2, 2, 2, 2})).front().forecast.peak;
  EXPECT_LT(halves, whole);
  EXPECT_LT(quarters, halves);
}

// The gradients gathered so far come on top, and nothing else: a micro-batch is planned as well as a batch of its size.
TEST_F(MicroBatchTest, TheLeastBudgetIsThatOfOneMicroBatchAndTheGradients) {
  const auto least_of = [](int micro_batches) {
    const auto step = [micro_batches](Models& models) {
      for (int i = 0; i < micro_batches; ++i) models.loss(*models.second, 8, 1).backward();
    };
    return candidates_of({"", step, 1}).front().forecast.peak;
  };
  std::size_t gradients = 0;
  for (const nn::NamedTensor& parameter : Models(meta_device()).second->parameters())
    gradients += parameter.tensor.value().bytes();
  const std::size_t one = least_of(1);
  EXPECT_LE(least_of(2), one + gradients);
  EXPECT_LE(least_of(4), one + gradients);
}

// One plan is for any number of them: the next epoch may end in fewer.
TEST_F(MicroBatchTest, MoreOrFewerThanPlannedAreStillThePlannedStep) {
  const Case two = micro_batches("", {4, 4});
  testing::internal::CaptureStderr();
  const std::size_t before = live_bytes();
  for (const Candidate& candidate : candidates_of(two)) {
    for (const std::vector<std::int64_t>& shares : {std::vector<std::int64_t>{4}, {4, 4, 4, 4}, {4, 3, 1}}) {
      Steps run(micro_batches("", shares), device());
      run.step(candidate.policy);
      test_allocator().reset_peak();
      run.step(candidate.policy);
      EXPECT_LE(test_allocator().stats().peak - before, candidate.forecast.peak) << shares.size();
    }
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(MicroBatchTest, AnotherStepThanPlannedGoesOnByTheFallbackAndSaysSoOnce) {
  const auto other = [](Models& models) {
    models.loss(*models.first, 4, 1).backward();
    models.loss(*models.second, 4, 2).backward();
  };
  const std::string expected = Steps({"", other, 2}, device()).digest_under(memory::store_all());
  testing::internal::CaptureStderr();
  for (const Candidate& candidate : candidates_of(micro_batches("", {4, 4}))) {
    Steps run({"", other, 2}, device());
    EXPECT_EQ(run.digest_under(candidate.policy), expected);
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_NE(said.find("was made for another step"), std::string::npos) << said;
}

}  // namespace
}  // namespace palimpsest::test
