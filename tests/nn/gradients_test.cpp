// Gradients between backward and the optimiser's step: losses that add up, numbers that are none, clipping.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/nn/block.hpp>
#include <palimpsest/nn/gradients.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/mse_loss.hpp>
#include <palimpsest/ops/pool.hpp>
#include <palimpsest/train/training.hpp>
#include "tests/support/policies.hpp"
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using GradientsTest = TapeTest;

constexpr float infinite = std::numeric_limits<float>::infinity();

struct Body : nn::Block<Tensor(Tensor)> {
  Body(nn::Init& init, bool normalised)
      : first(init, 2, 4, {.padding = ops::Padding::all(1)}), norm(init, 4), second(init, 4, 3, {.bias = true}) {
    add_module("first", first);
    if (normalised) add_module("norm", norm);
    add_module("second", second);
    normalises = normalised;
  }
  Tensor forward(Tensor x) override {
    Tensor y = first(x);
    if (normalises) y = norm(std::move(y));
    return second(ops::relu(std::move(y)));
  }

  bool normalises = false;
  nn::Conv2d first;
  nn::BatchNorm2d norm;
  nn::Conv2d second;
};

struct Net : nn::Model<Tensor(Tensor)> {
  explicit Net(nn::Init init, bool normalised = false) : body(init, normalised), head(init, 3, 2) {
    add_module("body", body);
    add_module("head", head);
  }
  Tensor forward(Tensor x) override { return head(ops::global_avg_pool(body(std::move(x)))); }

  Body body;
  nn::Linear head;
};

struct Samples {
  Tensor images;
  Tensor targets;
  Tensor labels;
};

/// The samples [first, first + count) of eight.
Samples samples(std::int64_t first, std::int64_t count) {
  const auto part = [&](const Shape& shape, std::uint64_t seed) {
    const std::vector<float> all = random_tensor(shape, seed).to_vector<float>();
    const std::int64_t each = shape.count() / 8;
    std::vector<std::int64_t> extents;
    const Shape of_part = shape.rank() == 4 ? Shape{count, shape.c(), shape.h(), shape.w()} : Shape{count, shape.c()};
    return from_vector<float>(of_part, {all.begin() + first * each, all.begin() + (first + count) * each});
  };
  std::vector<std::int32_t> labels;
  for (std::int64_t i = first; i < first + count; ++i) labels.push_back(static_cast<std::int32_t>(i * 5 % 3 % 2));
  return {part({8, 2, 6, 6}, 3), part({8, 2}, 4), from_vector<std::int32_t>({count}, labels)};
}

/// Two losses of different weights.
Tensor weighted_loss(Net& net, const Samples& batch) {
  const Tensor scores = net(batch.images);
  return ops::add(ops::scale(ops::mse_loss(scores, batch.targets), 0.25),
                  ops::scale(ops::cross_entropy(scores, batch.labels), 2));
}

std::vector<std::vector<float>> gradients(const nn::Module& net) {
  std::vector<std::vector<float>> all;
  for (const auto& [name, parameter] : net.parameters()) all.push_back(parameter.grad().to_vector<float>());
  return all;
}

TEST_F(GradientsTest, MicroBatchesWeightedByTheirSharesAddUpToTheBatch) {
  std::vector<std::vector<float>> accumulated_by_first_policy;
  for (const PolicyPtr& policy : all_policies()) {
    Net net(nn::Init(1, device()));
    net.set_memory(policy);
    weighted_loss(net, samples(0, 8)).backward();
    const std::vector<std::vector<float>> whole = gradients(net);
    for (const auto& [name, parameter] : net.parameters()) parameter.zero_grad();
    ops::scale(weighted_loss(net, samples(0, 5)), 5.0 / 8).backward();
    ops::scale(weighted_loss(net, samples(5, 3)), 3.0 / 8).backward();
    const std::vector<std::vector<float>> accumulated = gradients(net);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      for (std::size_t k = 0; k < whole[i].size(); ++k) {
        EXPECT_NEAR(accumulated[i][k], whole[i][k], 1e-6) << policy->name() << ": " << net.parameters()[i].name;
      }
    }
    if (accumulated_by_first_policy.empty()) accumulated_by_first_policy = accumulated;
    EXPECT_EQ(accumulated, accumulated_by_first_policy) << policy->name() << ": the bits of store-all";
  }
}

TEST_F(GradientsTest, ALossTimesANumberKeepsNothing) {
  const Tensor x = random_parameter({4, 5}, 1);
  Tensor doubled = ops::scale(x, 2);
  const std::size_t live = live_bytes();
  const Tensor result = ops::scale(std::move(doubled), 3);
  EXPECT_EQ(live_bytes(), live) << "in the memory of its input";
  weighted_sum(result, zeros({4, 5})).backward();
}

/// Bits of parameters and buffers.
std::vector<Bits> state_of(const nn::Module& module) {
  std::vector<Bits> bits;
  for (const auto& [name, parameter] : module.parameters()) bits.push_back(bits_of(parameter));
  for (const auto& [name, buffer] : module.buffers()) bits.push_back(bits_of(buffer));
  return bits;
}

Samples with_an_infinite_pixel() {
  Samples batch = samples(0, 8);
  std::vector<float> pixels = batch.images.to_vector<float>();
  pixels[17] = infinite;
  batch.images = from_vector<float>({8, 2, 6, 6}, pixels);
  return batch;
}

TEST_F(GradientsTest, AnOptimiserRefusesGradientsThatAreNoNumbersAndNamesTheFirst) {
  Net net(nn::Init(1, device()));
  nn::Sgd sgd(net.parameters(), {});
  weighted_loss(net, samples(0, 8)).backward();
  sgd.step();
  sgd.zero_grad();
  weighted_loss(net, with_an_infinite_pixel()).backward();
  const std::vector<Bits> before = state_of(net);
  std::vector<Bits> velocities;
  for (const nn::NamedTensor& velocity : sgd.state()) velocities.push_back(bits_of(velocity.tensor));
  const std::string message = message_of<NonFiniteError>([&] { sgd.step(); });
  EXPECT_NE(message.find("the gradient of body.first.weight (4, 2, 3, 3) is "), std::string::npos) << message;
  EXPECT_EQ(state_of(net), before);
  for (std::size_t i = 0; i < velocities.size(); ++i) EXPECT_EQ(bits_of(sgd.state()[i].tensor), velocities[i]);
}

TEST_F(GradientsTest, AnOptimiserCanBeToldNotToLook) {
  Net net(nn::Init(1, device()));
  nn::Sgd sgd(net.parameters(), {.check_finite = false});
  weighted_loss(net, with_an_infinite_pixel()).backward();
  EXPECT_NO_THROW(sgd.step());
  EXPECT_FALSE(std::isfinite(net.parameters()[0].tensor.to_vector<float>()[0]));
}

/// A task of the network with batch normalisation, whose running statistics an infinite pixel would spoil.
train::Task task_of(const nn::GradientOptions& options) {
  return {.name = "Net",
          .make_model = [](nn::Init init) { return std::make_unique<Net>(std::move(init), true); },
          .loss = train::with_model<Net>(
              [](Net& net, std::span<const Tensor> batch) { return ops::cross_entropy(net(batch[0]), batch[1]); }),
          .make_optimiser =
              [](auto parameters) {
                return std::make_unique<nn::Sgd>(std::move(parameters),
                                                 nn::SgdOptions{.learning_rate = 1, .momentum = 0, .weight_decay = 0});
              },
          .gradients = options};
}

TEST_F(GradientsTest, AStepThatFindsALossThatIsNoNumberLeavesEverything) {
  for (const bool checks : {true, false}) {
    train::Training training(task_of({.check_finite = checks}), nn::Init(1, device()));
    const std::vector<Bits> before = state_of(training.model());
    const Samples batch = with_an_infinite_pixel();
    const std::vector<Tensor> tensors = {batch.images, batch.labels};
    if (checks) {
      const std::string message = message_of<NonFiniteError>([&] { training.checked_step(tensors); });
      EXPECT_NE(message.find("the loss is "), std::string::npos) << message;
      EXPECT_EQ(state_of(training.model()), before) << "parameters and running statistics";
    } else {
      EXPECT_NO_THROW(training.checked_step(tensors));
      EXPECT_NE(state_of(training.model()), before);
    }
  }
}

TEST_F(GradientsTest, AStepThatFindsAGradientThatIsNoNumberLeavesEverything) {
  train::Training training(task_of({}), nn::Init(1, device()));
  const std::vector<Bits> before = state_of(training.model());
  const Samples batch = with_an_infinite_pixel();
  const std::vector<Tensor> tensors = {batch.images, batch.labels};
  const std::string message = message_of<NonFiniteError>([&] { training.step(tensors); });
  EXPECT_NE(message.find("the gradient of body.first.weight"), std::string::npos) << message;
  EXPECT_EQ(state_of(training.model()), before) << "parameters and running statistics";
  for (const auto& [name, parameter] : training.model().parameters()) EXPECT_FALSE(parameter.grad()) << name;
  const Samples good = samples(0, 8);
  EXPECT_NO_THROW(training.checked_step(std::vector<Tensor>{good.images, good.labels})) << "the next step is a step";
}

TEST_F(GradientsTest, ATasksClippingBoundsTheStep) {
  const Samples batch = samples(0, 8);
  const std::vector<Tensor> tensors = {batch.images, batch.labels};
  const auto moved = [&](const nn::GradientOptions& options) {
    train::Training training(task_of(options), nn::Init(1, device()));
    std::vector<std::vector<float>> before;
    for (const auto& [name, parameter] : training.model().parameters()) before.push_back(parameter.to_vector<float>());
    training.step(tensors);
    double squares = 0, most = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      const std::vector<float> after = training.model().parameters()[i].tensor.to_vector<float>();
      for (std::size_t k = 0; k < after.size(); ++k) {
        const double by = double{after[k]} - double{before[i][k]};
        squares += by * by;
        most = std::max(most, std::abs(by));
      }
    }
    return std::pair(std::sqrt(squares), most);
  };
  const auto [norm, most] = moved({});
  ASSERT_GT(norm, 0.02);
  EXPECT_NEAR(moved({.clip_norm = 0.01}).first, 0.01, 1e-5);
  EXPECT_EQ(moved({.clip_norm = 2 * norm}), std::pair(norm, most)) << "what is within the bound stays, to the bit";
  EXPECT_NEAR(moved({.clip_value = most / 2}).second, most / 2, 1e-6);
  const auto [both_norm, both_most] = moved({.clip_value = most / 2, .clip_norm = 0.01});
  EXPECT_NEAR(both_norm, 0.01, 1e-5) << "values first";
  EXPECT_LT(both_most, most / 2);
}

std::vector<nn::NamedTensor> two_parameters() {
  const std::vector<nn::NamedTensor> parameters = {{"a", random_parameter({3, 5}, 1)}, {"b", random_parameter({7}, 2)}};
  for (const auto& [name, parameter] : parameters) {
    const Tensor like = random_tensor(parameter.shape(), 5);
    weighted_sum(parameter, like).backward();
  }
  return parameters;
}

double norm_of(const std::vector<nn::NamedTensor>& parameters) {
  double squares = 0;
  for (const auto& [name, parameter] : parameters) {
    for (const float value : parameter.grad().to_vector<float>()) squares += double{value} * double{value};
  }
  return std::sqrt(squares);
}

TEST_F(GradientsTest, TheNormIsThatOfAllTogether) {
  std::vector<nn::NamedTensor> parameters = two_parameters();
  const double norm = norm_of(parameters);
  EXPECT_NEAR(nn::gradient_norm(parameters), norm, 1e-12);
  parameters.push_back({"a_again", parameters[0].tensor});
  EXPECT_NEAR(nn::gradient_norm(parameters), norm, 1e-12) << "a parameter counts once";
  EXPECT_EQ(nn::gradient_norm({}), 0);
  EXPECT_NEAR(nn::clip_gradient_norm(parameters, norm / 4), norm, 1e-12);
  EXPECT_NEAR(norm_of(two_parameters()), norm, 1e-12);
  parameters.pop_back();
  EXPECT_NEAR(norm_of(parameters), norm / 4, 1e-6) << "and is scaled once";
  const Bits before = bits_of(parameters[0].tensor.grad());
  nn::clip_gradient_norm(parameters, norm);
  EXPECT_EQ(bits_of(parameters[0].tensor.grad()), before);
}

TEST_F(GradientsTest, ValuesAreClippedAtBothEnds) {
  const std::vector<nn::NamedTensor> parameters = two_parameters();
  std::vector<std::vector<float>> expected;
  for (const auto& [name, parameter] : parameters) {
    expected.push_back(parameter.grad().to_vector<float>());
    for (float& value : expected.back()) value = std::max(-0.25F, std::min(0.25F, value));
  }
  nn::clip_gradient_value(parameters, 0.25);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ(parameters[i].tensor.grad().to_vector<float>(), expected[i]);
  }
}

TEST_F(GradientsTest, ClippingRefusesWhatHasNoNorm) {
  const std::vector<nn::NamedTensor> parameters = two_parameters();
  std::vector<float> values(7, 1);
  values[3] = infinite;
  parameters[1].tensor.grad().assign(from_vector<float>({7}, values));
  const Bits before = bits_of(parameters[0].tensor.grad());
  EXPECT_EQ(message_of<NonFiniteError>([&] { nn::clip_gradient_norm(parameters, 1e-3); }),
            "the gradient of b (7) is inf at element 3, and 0 more of its elements are not finite");
  EXPECT_EQ(bits_of(parameters[0].tensor.grad()), before);
  EXPECT_THROW(nn::check_gradients(parameters), NonFiniteError);
  for (const double bound : {0.0, -1.0, std::nan(""), double{infinite}}) {
    EXPECT_THROW(nn::clip_gradient_norm(parameters, bound), ValueError) << bound;
    EXPECT_THROW(nn::clip_gradient_value(parameters, bound), ValueError) << bound;
  }
  EXPECT_THROW(nn::GradientGuard(parameters, {.clip_norm = -1}), ValueError);
}

TEST_F(GradientsTest, LargeNumbersAreNumbers) {
  Tensor x = from_vector<double>({2}, {1, 1});
  x.requires_grad();
  weighted_sum(x, from_vector<double>({2}, {1e300, 1})).backward();
  EXPECT_NO_THROW(nn::check_gradients(std::vector<nn::NamedTensor>{{"x", x}})) << "its square overflows, it does not";
}

TEST_F(GradientsTest, TheNormIsTheSameBitsForAnyNumberOfThreads) {
  const std::vector<nn::NamedTensor> parameters = {{"a", random_parameter({300, 401}, 1)}};
  weighted_sum(parameters[0].tensor, random_tensor({300, 401}, 2)).backward();
  std::vector<double> norms;
  for (const int threads : {1, 2, 5}) {
    set_thread_count(threads);
    norms.push_back(nn::gradient_norm(parameters));
  }
  EXPECT_EQ(norms[1], norms[0]);
  EXPECT_EQ(norms[2], norms[0]);
}

TEST_F(GradientsTest, AGuardSeesTheGradientsBeforeAnythingIsCommitted) {
  Net net(nn::Init(1, device()), true);
  const nn::GradientGuard guard(net.parameters());
  const std::vector<Bits> before = state_of(net);
  const Samples bad = with_an_infinite_pixel();
  const Tensor loss = ops::cross_entropy(net(bad.images), bad.labels);
  EXPECT_NE(state_of(net), before) << "running statistics have moved";
  EXPECT_THROW(loss.backward(guard), NonFiniteError);
  EXPECT_EQ(state_of(net), before);
  EXPECT_THROW(loss.backward(), StateError) << "the step has failed";
}

/// A gradient that passes unchanged is shared until it is written to: two leaves' gradients are scaled once each.
TEST_F(GradientsTest, AGuardClipsGradientsThatAreOne) {
  const Tensor a = random_parameter({4}, 1);
  const Tensor b = random_parameter({4}, 2);
  const nn::GradientGuard guard({{"a", a}, {"b", b}}, {.clip_norm = 1});
  weighted_sum(ops::add(a, b), from_vector<float>({4}, {1, 1, 1, 1})).backward(guard);
  const std::vector<float> expected(4, static_cast<float>(1 / std::sqrt(8.0)));
  EXPECT_EQ(a.grad().to_vector<float>(), expected);
  EXPECT_EQ(b.grad().to_vector<float>(), expected);
}

}  // namespace
}  // namespace palimpsest::test
