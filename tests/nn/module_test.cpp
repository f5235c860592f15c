// Modules: what is registered, what is not, and what optimisers and policies make of it.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/tape_support.hpp"
#include "tests/support/training.hpp"

namespace palimpsest::test {
namespace {

using ModuleTest = TapeTest;

/// A module whose parts a test registers.
struct Open : nn::Module {
  using Module::add_buffer;
  using Module::add_module;
  using Module::add_parameter;
};

Tensor numbers(std::int64_t count) { return random_tensor({count}, 3); }

TEST_F(ModuleTest, NamesAreTakenOnce) {
  Open part;
  Open other;
  Open module;
  module.add_parameter("weight", numbers(2));
  module.add_buffer("mean", numbers(3));
  module.add_module("stage1.unit1", part);
  const auto refused = [&](const auto& add) { return message_of<ValueError>(add); };
  EXPECT_EQ(refused([&] { module.add_parameter("weight", numbers(4)); }),
            "parameter 'weight' in a module that has a parameter 'weight'");
  EXPECT_EQ(refused([&] { module.add_buffer("weight", numbers(4)); }),
            "buffer 'weight' in a module that has a parameter 'weight'");
  EXPECT_EQ(refused([&] { module.add_module("mean", other); }), "part 'mean' in a module that has a buffer 'mean'");
  EXPECT_EQ(refused([&] { module.add_module("stage1.unit1", other); }),
            "part 'stage1.unit1' in a module that has a part 'stage1.unit1'");
  EXPECT_EQ(refused([&] { module.add_module("stage1", other); }),
            "part 'stage1' in a module that has a part 'stage1.unit1'");
  for (const char* name : {"", ".", "a.", ".a", "a..b"}) {
    EXPECT_NE(refused([&] { module.add_module(name, other); }).find("expected a name"), std::string::npos) << name;
  }
  EXPECT_EQ(module.parameters().size(), 1U);
  EXPECT_EQ(module.buffers().size(), 1U);
  EXPECT_NO_THROW(module.add_module("stage1.unit10", other));
}

TEST_F(ModuleTest, APartHasOnePlace) {
  Open part;
  Open first;
  Open second;
  first.add_module("part", part);
  EXPECT_NE(message_of<ValueError>([&] { second.add_module("again", part); }).find("'again' is a part of a module"),
            std::string::npos);
}

/// Two convolutions, the second of which is registered only if asked for.
struct TwoConvolutions : nn::Model<Tensor(Tensor)> {
  TwoConvolutions(nn::Init init, bool whole)
      : first(init, 3, 4, {.padding = ops::Padding::all(1)}), second(init, 4, 4, {.kernel = 1, .bias = true}) {
    add_module("first", first);
    if (whole) add_module("second", second);
  }
  Tensor forward(Tensor x) override { return ops::global_avg_pool(second(first(std::move(x)))); }

  nn::Conv2d first;
  nn::Conv2d second;
};

Tensor loss_of(TwoConvolutions& model, const Tensor& images) {
  return ops::cross_entropy(model(images), from_vector<std::int32_t>({2}, {0, 3}));
}

TEST_F(ModuleTest, AModuleThatIsUsedButNotRegisteredIsAnError) {
  TwoConvolutions model(nn::Init(1, device()), false);
  const std::size_t live = live_bytes();
  {
    const Tensor images = random_tensor({2, 3, 4, 4}, 2);
    for (int call = 0; call < 2; ++call) {
      const std::string message = message_of<ValueError>([&] { loss_of(model, images); });
      EXPECT_NE(message.find("reads a parameter (4"), std::string::npos) << message;
      EXPECT_NE(message.find("add_module()"), std::string::npos) << message;
    }
    const NoGrad no_grad;
    EXPECT_NO_THROW(model(images));
  }
  EXPECT_EQ(live_bytes(), live);
}

TEST_F(ModuleTest, AGradientOfTheInputIsNoError) {
  TwoConvolutions model(nn::Init(1, device()), true);
  const Tensor images = random_parameter({2, 3, 4, 4}, 2);
  loss_of(model, images).backward();
  EXPECT_TRUE(images.grad());
}

/// A normalisation that nobody has registered, whose result is made only when it is read.
struct EndsInANormalisation : nn::Model<Tensor(Tensor)> {
  explicit EndsInANormalisation(nn::Init init) : conv(init, 3, 4), norm(init, 4, {.relu = true}) {
    add_module("conv", conv);
  }
  Tensor forward(Tensor x) override { return norm(conv(std::move(x))); }

  nn::Conv2d conv;
  nn::BatchNorm2d norm;
};

TEST_F(ModuleTest, TheLastOpIsCheckedTooAndRunningStatisticsArePutBack) {
  EndsInANormalisation model(nn::Init(1, device()));
  const Bits before = bits_of(model.norm.buffers().front().tensor);
  message_of<ValueError>([&] { model(random_tensor({2, 3, 5, 5}, 2)); });
  EXPECT_EQ(bits_of(model.norm.buffers().front().tensor), before);
}

TEST_F(ModuleTest, WithoutAPolicyEverythingIsKept) {
  const auto state_after_a_step = [](const std::function<void(nn::Module&)>& set) {
    nn::DenseNet model(densenet_spec({2, 2}, 4), nn::Init(1, device()));
    set(model);
    allocator(device()).reset_peak();
    const Tensor images = random_tensor({2, 3, 8, 8}, 2);
    ops::cross_entropy(model(images), from_vector<std::int32_t>({2}, {0, 3})).backward();
    std::vector<Bits> bits;
    for (const auto& [name, parameter] : model.parameters()) bits.push_back(bits_of(parameter.grad()));
    return std::pair(bits, allocator(device()).stats().peak);
  };
  const auto untouched = state_after_a_step([](nn::Module&) {});
  EXPECT_EQ(untouched, state_after_a_step([](nn::Module& model) { model.set_memory(memory::store_all()); }));
  EXPECT_EQ(untouched, state_after_a_step([](nn::Module& model) {
              model.set_memory(memory::checkpoint());
              model.set_memory(nullptr);
            }));
}

TEST_F(ModuleTest, AnOptimisersStateIsNamedAfterTheParameters) {
  TwoConvolutions model(nn::Init(1, device()), true);
  nn::Sgd sgd(model.parameters(), {});
  EXPECT_TRUE(sgd.state().empty());
  loss_of(model, random_tensor({2, 3, 4, 4}, 2)).backward();
  sgd.step();
  const std::vector<nn::NamedTensor> state = sgd.state();
  const std::vector<nn::NamedTensor> parameters = model.parameters();
  ASSERT_EQ(state.size(), parameters.size());
  for (std::size_t i = 0; i < state.size(); ++i) {
    EXPECT_EQ(state[i].name, parameters[i].name + ".velocity");
    EXPECT_EQ(state[i].tensor.shape(), parameters[i].tensor.shape());
  }
  EXPECT_EQ(state[2].name, "second.bias.velocity");
}

TEST_F(ModuleTest, AConvolutionsBiasIsAdded) {
  nn::Init init(1, device());
  const nn::Conv2d conv(init, 2, 3, {.kernel = 1, .bias = true});
  const Tensor x = random_tensor({1, 2, 2, 2}, 2);
  const std::vector<float> before = conv(x).to_vector<float>();
  conv.parameters()[1].tensor.assign(from_vector<float>({3}, {1, 2, 3}));
  const std::vector<float> after = conv(x).to_vector<float>();
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_FLOAT_EQ(after[i], before[i] + static_cast<float>(i / 4 + 1)) << i;
  }
}

TEST(Init, DistributionsHaveTheirDeviations) {
  nn::Init init(1);
  const Shape shape{40, 30, 3, 3};
  const auto deviation = [&](nn::Initialisation how) {
    double squares = 0;
    for (const float weight : init.weight(shape, how).to_vector<float>()) squares += double{weight} * double{weight};
    return std::sqrt(squares / static_cast<double>(shape.count()));
  };
  EXPECT_NEAR(deviation(nn::Initialisation::HeNormal), std::sqrt(2.0 / 360), 0.002);
  EXPECT_NEAR(deviation(nn::Initialisation::HeTruncatedNormal), 0.88 * std::sqrt(2.0 / 360), 0.002);
  EXPECT_NEAR(deviation(nn::Initialisation::LecunUniform), std::sqrt(1.0 / 270), 0.002);
  EXPECT_NEAR(deviation(nn::Initialisation::FanInUniform), std::sqrt(1.0 / 810), 0.002);
  EXPECT_THROW(init.weight({3}, nn::Initialisation::HeNormal), ShapeError);
}

}  // namespace
}  // namespace palimpsest::test
