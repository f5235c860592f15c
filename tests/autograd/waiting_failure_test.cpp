// Mistakes and failures around results that nobody has read yet: what is said, and that nothing is left behind.

#include <gtest/gtest.h>

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/fused_layers.hpp"
#include "tests/support/op_support.hpp"
#include "tests/support/policies.hpp"

namespace palimpsest::test {
namespace {

using WaitingFailureTest = TapeTest;

// --- What is changed while a result waits ----------------------------------------------------------------------------

/// An input of a waiting normalisation or of the concat before it.
struct Change {
  std::string name;
  std::function<Tensor(const Layer&)> changed;
  std::string message;
};

std::vector<Change> changes() {
  return {
      {"gamma", [](const Layer& layer) { return layer.gamma; }, "[batch_norm_relu] input 2 (5) was changed"},
      {"beta", [](const Layer& layer) { return layer.beta; }, "[batch_norm_relu] input 3 (5) was changed"},
      {"a part", [](const Layer& layer) { return layer.b; }, "[batch_norm_relu] input 1 (2, 2, 4, 4) was changed"},
  };
}

enum class Reader { Convolution, User, Backward };

/// One step in which an input of a waiting normalisation is changed before `reader` comes to it.
void step_with(const Layer& layer, const Change& change, Reader reader) {
  const Tensor early = ops::add(layer.a, layer.a);
  Tensor kept;
  const Tensor z = in_block(memory::shared(), layer.a, [&](const Tensor& x) {
    Tensor y = layer.norm(ops::concat(std::vector<Tensor>{early, layer.b}));  // of the same computation as the loss
    change.changed(layer).assign(zeros(change.changed(layer).shape()));
    if (reader == Reader::Convolution) return layer.conv(std::move(y));
    kept = y;
    if (reader == Reader::User) y.view();
    return ops::add(x, early);
  });
  layer.loss_of(z).backward();
}

TEST_F(WaitingFailureTest, WhatWaitsMayNotReadChangedBytes) {
  for (const Change& change : changes()) {
    for (const Reader reader : {Reader::Convolution, Reader::User, Reader::Backward}) {
      SCOPED_TRACE(::testing::Message() << change.name << ", reader " << static_cast<int>(reader));
      const Layer layer;
      const std::vector<Bits> statistics = layer.statistics();
      const Bits weight = bits_of(layer.weight);
      const std::string message = message_of<StateError>([&] { step_with(layer, change, reader); });
      EXPECT_NE(message.find(change.message), std::string::npos) << message;
      EXPECT_TRUE(layer.statistics() == statistics);
      EXPECT_TRUE(bits_of(layer.weight) == weight);
      EXPECT_TRUE(bits_of(change.changed(layer)) == bits_of(zeros(change.changed(layer).shape())));
      EXPECT_FALSE(layer.has_gradients());
      layer.loss_of(layer.conv(layer.norm())).backward();
      EXPECT_TRUE(layer.has_gradients());
    }
  }
}

TEST_F(WaitingFailureTest, AConcatMayNotReadChangedBytesEither) {
  const Layer layer;
  const Tensor joined = layer.joined();
  Tensor(layer.b).assign(zeros(layer.b.shape()));
  const std::string message = message_of<StateError>([&] { joined.view(); });
  EXPECT_NE(message.find("[concat] input 1 (2, 2, 4, 4) was changed before its result was read"), std::string::npos)
      << message;
}

TEST_F(WaitingFailureTest, WhatAFusedConvolutionReadsMayNotChangeBeforeBackward) {
  for (const bool weight : {false, true}) {
    const Layer layer;
    const std::vector<Bits> statistics = layer.statistics();
    const Tensor early = ops::add(layer.a, layer.a);
    const Tensor loss = layer.loss_of(layer.conv(layer.norm()));
    Tensor(weight ? layer.weight : layer.beta).assign(zeros((weight ? layer.weight : layer.beta).shape()));
    const std::string message = message_of<StateError>([&] { loss.backward(); });
    EXPECT_NE(message.find(weight ? "input 4 (4, 5, 1, 1) was changed" : "input 3 (5) was changed"), std::string::npos)
        << message;
    EXPECT_TRUE(layer.statistics() == statistics);
    EXPECT_FALSE(layer.has_gradients());
  }
}

// If a step begins with an op that waits, nothing else keeps its record, and with it the state to take back.

TEST_F(WaitingFailureTest, AStepThatBeginsWithAFusedConvolutionTakesItsCommitBack) {
  const Layer layer;
  const std::vector<Bits> statistics = layer.statistics();
  const Tensor loss = layer.loss_of(watch(layer.conv(layer.norm()), [](Moment moment) {
    if (moment == Moment::Backward) throw Injected("in backward");
  }));
  EXPECT_EQ(recorded(fused_name), 1);
  EXPECT_THROW(loss.backward(), Injected);
  EXPECT_TRUE(layer.statistics() == statistics);
}

TEST_F(WaitingFailureTest, AStepThatBeginsInABlockTakesItsCommitBack) {
  for (const bool waits : {false, true}) {
    const Layer layer;
    const std::vector<Bits> statistics = layer.statistics();
    const auto enter = [&] {
      in_block(memory::store_all(), layer.a, [&](const Tensor&) -> Tensor {
        const Tensor y = layer.norm(layer.joined(), waits);
        throw Injected("user code");
      });
    };
    EXPECT_THROW(enter(), Injected);
    EXPECT_TRUE(layer.statistics() == statistics) << (waits ? "the normalisation waits" : "it does not wait");
  }
}

TEST_F(WaitingFailureTest, StatisticsLeftWithAFeatureAreOfTheBytesThatItHas) {
  const auto second_result = [](bool statistics_known) {
    const Layer layer;
    const Tensor x = ops::add(layer.a, layer.a);
    const auto norm = [&] {
      const ops::RunningStatistics running = {zeros({3}), zeros({3})};
      const Tensor three = random_tensor({3}, 1);
      return bits_of(ops::batch_norm(x, three, three, running, {.relu = true}));
    };
    if (statistics_known) norm();
    x.detach().assign(random_tensor(x.shape(), 99));
    return norm();
  };
  EXPECT_TRUE(second_result(true) == second_result(false));
}

// --- Calls that must be refused --------------------------------------------------------------------------------------

struct Refused {
  std::string name;
  std::function<Tensor()> weight;
  ops::Conv2dOptions spec;
};

Tensor of_a_step_that_is_over() {
  const Tensor leaf = random_parameter({4, 5, 1, 1}, 1);
  Tensor made = ops::add(leaf, leaf);
  weighted_sum(made, random_tensor(made.shape(), 2)).backward();
  return made;
}

std::vector<Refused> refused_calls() {
  const auto weight = [](const Shape& shape) { return [=] { return random_parameter(shape, 1); }; };
  return {
      {"channels", weight({4, 6, 1, 1}), {}},
      {"rank", weight({4, 5}), {}},
      {"stride", weight({4, 5, 1, 1}), {.stride = 0, .padding = {}}},
      {"padding", weight({4, 5, 1, 1}), {.padding = {-1, 0, 0, 0}}},
      {"size", weight({4, 5, 7, 7}), {.padding = ops::Padding::all(1)}},
      {"dtype",
       [] {
         return random_of({4, 5, 1, 1}, Dtype::Float64, 1);
       },
       {}},
      {"labels",
       [] {
         return zeros({4, 5, 1, 1}, Dtype::Int32);
       },
       {}},
      {"empty", [] { return Tensor(); }, {}},
      {"device",
       [] {
         return Tensor::zeros({4, 5, 1, 1}, Dtype::Float32, meta_device());
       },
       {}},
      {"step", of_a_step_that_is_over, {}},
  };
}

/// The message with which conv2d refuses, given a result that waits or one that is there.
std::string refusal(const Refused& call, bool waits) {
  const Tensor weight = call.weight();
  const Layer layer;
  const std::vector<Bits> statistics = layer.statistics();
  Tensor y = layer.norm();
  if (!waits) y.view();
  const std::string message = message_of<Error>([&] { ops::conv2d(std::move(y), weight, call.spec); });
  EXPECT_TRUE(layer.statistics() == statistics);
  return message;
}

TEST_F(WaitingFailureTest, ConvolutionsRefuseAWaitingInputInTheSameWords) {
  for (const Refused& call : refused_calls()) EXPECT_EQ(refusal(call, true), refusal(call, false)) << call.name;
}

TEST_F(WaitingFailureTest, ARefusedConvolutionLeavesAWaitingInputToOthers) {
  for (const Refused& call : refused_calls()) {
    const Tensor weight = call.weight();
    const Layer layer;
    const Tensor y = layer.norm();
    EXPECT_THROW(ops::conv2d(y, weight, call.spec), Error) << call.name;
    layer.loss_of(layer.conv(y)).backward();
    EXPECT_TRUE(layer.has_gradients());
  }
}

TEST_F(WaitingFailureTest, NormalisationsRefuseAWaitingConcatInTheSameWords) {
  const Tensor five = random_parameter({5}, 1);
  const Tensor six = random_parameter({6}, 2);
  const auto refusal = [&](bool waits, const Tensor& gamma, const Tensor& beta, const Tensor& mean) {
    const Layer layer;
    Tensor joined = layer.joined();
    if (!waits) joined.view();
    const auto call = [&] { ops::batch_norm(std::move(joined), gamma, beta, {mean, zeros({5})}, {.relu = true}); };
    return message_of<Error>(call);
  };
  const auto expect_same_words = [&](const Tensor& gamma, const Tensor& beta, const Tensor& mean) {
    EXPECT_EQ(refusal(true, gamma, beta, mean), refusal(false, gamma, beta, mean));
  };
  expect_same_words(six, five, zeros({5}));
  expect_same_words(five, six, zeros({5}));
  expect_same_words(five, random_of({5}, Dtype::Float64, 3), zeros({5}));
  expect_same_words(five, Tensor(), zeros({5}));
  expect_same_words(five, five, zeros({6}));
}

// --- Running out of memory -------------------------------------------------------------------------------------------

/// From which moment on memory is short.
enum class Short { FromTheStart, FromTheConvolution, FromBackward };

/// One step; the limit is set when the moment comes. Returns the peak from there on.
std::size_t step_within(const Layer& layer, const PolicyPtr& policy, Short when, std::size_t limit) {
  const auto restrict = [&](Short moment) {
    if (moment != when) return;
    test_allocator().reset_peak();
    test_allocator().set_limit(limit);
  };
  for (const Tensor& parameter : layer.parameters()) parameter.zero_grad();
  restrict(Short::FromTheStart);
  const Tensor z = in_block(policy, layer.a, [&](const Tensor& x) {
    const Tensor twice = ops::add(x, x);
    Tensor y = layer.norm(ops::concat(std::vector<Tensor>{twice, layer.b}));
    restrict(Short::FromTheConvolution);
    const Tensor first = layer.conv(std::move(y));
    return ops::add(first, layer.conv(layer.norm(ops::concat(std::vector<Tensor>{layer.a, layer.b}))));
  });
  const Tensor loss = layer.loss_of(z);
  restrict(Short::FromBackward);
  loss.backward();
  return test_allocator().stats().peak;
}

/// Lowers the limit from maximum to maximum until the moment itself has no room. Returns how many steps have failed.
int fail_everywhere(const PolicyPtr& policy, Short when, std::int64_t kernel) {
  const Layer layer(Dtype::Float32, kernel);
  std::size_t reached = step_within(layer, policy, when, 0);
  for (const Tensor& parameter : layer.parameters()) parameter.zero_grad();
  const std::vector<Bits> before = layer.state();
  const std::size_t live = live_bytes();
  int failures = 0;
  while (true) {
    bool failed = false;
    try {
      step_within(layer, policy, when, reached - 1);
    } catch (const OutOfMemory&) {
      failed = true;
    }
    const std::size_t peak = test_allocator().stats().peak;
    test_allocator().set_limit(0);
    if (!failed || peak >= reached) break;  // the limit was below what was live when it was set
    reached = peak;
    ++failures;
    EXPECT_TRUE(layer.state() == before);
    EXPECT_FALSE(layer.has_gradients());
    EXPECT_EQ(live_bytes(), live);
  }
  return failures;
}

TEST_F(WaitingFailureTest, RunningOutOfMemoryLeavesNoTrace) {
  for (const PolicyPtr& policy : {memory::store_all(), memory::shared(), memory::checkpoint()}) {
    for (const Short when : {Short::FromTheStart, Short::FromTheConvolution, Short::FromBackward}) {
      for (const std::int64_t kernel : {1, 3}) {
        SCOPED_TRACE(::testing::Message() << policy->name() << ", " << static_cast<int>(when) << ", " << kernel);
        EXPECT_GE(fail_everywhere(policy, when, kernel), 3);
      }
    }
  }
}

TEST_F(WaitingFailureTest, NoMemoryForAWaitingResultFailsTheStep) {
  for (const bool joined : {false, true}) {
    const Layer layer;
    const std::vector<Bits> before = layer.state();
    const Tensor early = ops::add(layer.a, layer.a);
    const auto parts = [&] { return ops::concat(std::vector<Tensor>{early, layer.b}); };
    const Tensor other = layer.conv(layer.norm(parts()));
    const Tensor y = joined ? parts() : layer.norm(parts());
    test_allocator().set_limit(live_bytes());
    EXPECT_THROW(y.view(), OutOfMemory);
    test_allocator().set_limit(0);
    EXPECT_TRUE(layer.state() == before);
    EXPECT_THROW(y.view(), StateError);
    EXPECT_THROW(layer.loss_of(other), StateError);
    layer.loss_of(layer.conv(layer.norm())).backward();
    EXPECT_TRUE(layer.has_gradients());
  }
}

// --- Memory ----------------------------------------------------------------------------------------------------------

/// The allocator's statistics of the second of two training steps.
MemoryStats peak_on(Device where, const nn::DenseNetOptions& spec, const PolicyPtr& policy) {
  nn::DenseNet model(spec, nn::Init(1, where));
  model.set_memory(policy);
  nn::Sgd sgd(model.parameters(), {});
  const Tensor images = Tensor::zeros({3, 3, 16, 16}, Dtype::Float32, where, Tag::Data);
  const Tensor labels = Tensor::zeros({3}, Dtype::Int32, where, Tag::Data);
  for (int step = 0; step < 2; ++step) {
    allocator(where).reset_peak();
    sgd.zero_grad();
    ops::cross_entropy(model(images), labels).backward();
    sgd.step();
  }
  return allocator(where).stats();
}

TEST_F(WaitingFailureTest, ThePeakOnMetaIsTheMeasuredOneUnderEveryPolicy) {
  for (const bool bottleneck : {true, false}) {
    nn::DenseNetOptions spec;
    spec.layers = {3, 2};
    spec.growth_rate = 5;
    spec.stem_channels = 6;
    spec.bottleneck = bottleneck;
    for (const PolicyPtr& policy : all_policies()) {
      SCOPED_TRACE(::testing::Message() << policy->name() << (bottleneck ? ", bottleneck" : ""));
      const MemoryStats meta = peak_on(meta_device(), spec, policy);
      const MemoryStats measured = peak_on(device(), spec, policy);
      EXPECT_EQ(meta.peak, measured.peak);
      EXPECT_EQ(meta.peak_by_tag, measured.peak_by_tag);
      EXPECT_EQ(meta.live, measured.live);
    }
  }
}

}  // namespace
}  // namespace palimpsest::test
