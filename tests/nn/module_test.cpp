// Modules: what is registered, what is not, and what optimisers and policies make of it.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/add.hpp>
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

TEST_F(ModuleTest, NoModuleIsAPartOfItself) {
  Open outer;
  Open middle;
  Open inner;
  const auto refused = [&](const auto& add) { return message_of<ValueError>(add); };
  EXPECT_EQ(refused([&] { outer.add_module("self", outer); }), "part 'self' is the module that it is to be a part of");
  outer.add_module("middle", middle);
  middle.add_module("inner", inner);
  EXPECT_EQ(refused([&] { inner.add_module("back", outer); }),
            "part 'back' has the module that it is to be a part of, as 'middle.inner'");
  EXPECT_TRUE(outer.parameters().empty()) << "and nothing has changed";
  EXPECT_NO_THROW(outer.train(false));
}

/// One convolution in two blocks, and one weight under two names.
struct Tied : nn::Model<Tensor(Tensor)> {
  struct Half : nn::Block<Tensor(Tensor)> {
    Half(nn::Conv2d& shared, nn::BatchNorm2d& norm) : shared(shared), norm(norm) {
      add_module("conv", shared);
      add_module("norm", norm);
    }
    Tensor forward(Tensor x) override { return norm(shared(std::move(x))); }
    nn::Conv2d& shared;
    nn::BatchNorm2d& norm;
  };

  explicit Tied(nn::Init init)
      : conv(init, 3, 3, {.padding = ops::Padding::all(1)}), norm(init, 3), first(conv, norm), second(conv, norm) {
    add_module("first", first);
    add_module("second", second);
    add_parameter("tied", conv.parameters()[0].tensor);
  }
  Tensor forward(Tensor x) override { return ops::global_avg_pool(second(first(std::move(x)))); }

  nn::Conv2d conv;
  nn::BatchNorm2d norm;
  Half first;
  Half second;
};

std::vector<std::string> names_of(const std::vector<nn::NamedTensor>& tensors) {
  std::vector<std::string> names;
  for (const nn::NamedTensor& one : tensors) names.push_back(one.name);
  return names;
}

TEST_F(ModuleTest, OneParameterIsOneParameterUnderAllOfItsNames) {
  Tied model(nn::Init(1, device()));
  using Names = std::vector<std::string>;
  EXPECT_EQ(names_of(model.parameters()), (Names{"tied", "first.norm.weight", "first.norm.bias"}));
  EXPECT_EQ(names_of(model.buffers()), (Names{"first.norm.running_mean", "first.norm.running_var"}));
  EXPECT_EQ(names_of(model.aliases()),
            (Names{"first.conv.weight", "second.conv.weight", "second.norm.weight", "second.norm.bias",
                   "second.norm.running_mean", "second.norm.running_var"}));
  EXPECT_EQ(model.aliases()[1].tensor.handle(), model.parameters()[0].tensor.handle());
  EXPECT_EQ(model.parameter_count(), 81 + 6);
  EXPECT_EQ(model.block_names(), (Names{"first", "second"}));
  EXPECT_NO_THROW(model.set_memory(std::vector<PolicyPtr>(2, memory::checkpoint())));
}

TEST_F(ModuleTest, OneParameterIsSteppedOnce) {
  const Tensor images = random_tensor({2, 3, 4, 4}, 2);
  Tied model(nn::Init(1, device()));
  std::vector<nn::NamedTensor> listed = model.parameters();
  for (const nn::NamedTensor& alias : model.aliases()) {
    if (alias.tensor.requires_grad_on()) listed.push_back(alias);
  }
  nn::Sgd sgd(listed, {.learning_rate = 0.5, .momentum = 0, .weight_decay = 0});
  const std::vector<float> before = model.parameters()[0].tensor.to_vector<float>();
  ops::cross_entropy(model(images), from_vector<std::int32_t>({2}, {0, 1})).backward();
  const std::vector<float> gradient = model.parameters()[0].tensor.grad().to_vector<float>();
  sgd.step();
  const std::vector<float> after = model.parameters()[0].tensor.to_vector<float>();
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_FLOAT_EQ(after[i], before[i] - 0.5F * gradient[i]) << i;
}

/// Two models with one encoder, which outlives them.
TEST_F(ModuleTest, APartMayOutliveTheModelsThatShareIt) {
  nn::Init init(1, device());
  nn::Conv2d encoder(init, 3, 4);
  {
    Open first;
    first.add_module("encoder", encoder);
  }
  Open second;
  second.add_module("stem", encoder);
  EXPECT_EQ(names_of(second.parameters()), std::vector<std::string>{"stem.weight"});
  EXPECT_THROW(encoder(random_tensor({1, 5, 4, 4}, 1)), ShapeError);
}

TEST_F(ModuleTest, NamesDoNotDependOnTheOrderOfRegistration) {
  struct Unit : nn::Block<Tensor(Tensor)> {
    Tensor forward(Tensor x) override { return x; }
  };
  Unit unit;
  Open stage;
  Open model;
  model.add_module("stage", stage);
  stage.add_module("unit", unit);  // the stage has its place already
  EXPECT_EQ(model.block_names(), std::vector<std::string>{"stage.unit"});
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

/// A block with a dropout layer that is one of its parts, or is not.
class Dropping : public nn::Block<Tensor(Tensor)> {
 public:
  Dropping(nn::Init& init, bool registered) : dropout_(init, 0.5) {
    if (registered) add_module("dropout", dropout_);
  }

 protected:
  Tensor forward(Tensor x) override { return dropout_(std::move(x)); }

 private:
  nn::Dropout dropout_;
};

TEST_F(ModuleTest, DropoutThatWouldNotHearOfEvaluationModeIsAnError) {
  nn::Init init(1, device());
  const Tensor x = random_tensor({2, 8}, 1);
  Dropping forgotten(init, false);
  EXPECT_THROW(forgotten(x), ValueError);
  Dropping heard(init, true);
  EXPECT_NE(bits_of(heard(x)), bits_of(x));
  heard.train(false);
  EXPECT_EQ(bits_of(heard(x)), bits_of(x));
  const nn::Dropout alone(init, 0.5);
  EXPECT_NE(bits_of(alone(x)), bits_of(x));
}

TEST_F(ModuleTest, ADenseNetInEvaluationModeDropsNothing) {
  nn::DenseNetOptions options = nn::DenseNetOptions::cifar(10, 4);
  options.dropout = 0.5;
  nn::Init init(1, device());
  const std::shared_ptr<Generator> generator = init.dropout_generator();
  nn::DenseNet net(options, std::move(init));
  net.train(false);
  const NoGrad no_grad;
  const Tensor images = random_tensor({2, 3, 32, 32}, 1);
  EXPECT_EQ(bits_of(net(images)), bits_of(net(images)));
  EXPECT_EQ(generator->offset, 0U);
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

TEST_F(ModuleTest, APolicyForAModelWithoutBlocksIsAnError) {
  TwoConvolutions model(nn::Init(1, device()), true);
  const std::string message = message_of<IdlePolicyError>([&] { model.set_memory(memory::checkpoint()); });
  EXPECT_NE(message.find("memory policy 'checkpoint' has nothing to decide about"), std::string::npos) << message;
  EXPECT_NE(message.find("nn::Block"), std::string::npos) << message;
  EXPECT_THROW(memory::assign(memory::parse("shared").rules(), model.block_names()), IdlePolicyError);
  EXPECT_NO_THROW(model.set_memory(nullptr));
  EXPECT_NO_THROW(model.set_memory(memory::store_all())) << "which is what happens";
  EXPECT_NO_THROW(memory::assign(memory::parse("store-all").rules(), model.block_names()));
}

TEST_F(ModuleTest, AnErrorInForwardSaysInWhichModule) {
  TwoConvolutions model(nn::Init(1, device()), true);
  EXPECT_EQ(message_of<ShapeError>([&] {
              model(random_tensor({2, 1, 8, 8}, 1));
            }),
            "in model.first: [conv2d] input 0 is (2, 1, 8, 8), expected (N, 3, H, W)");
  EXPECT_EQ(message_of<ShapeError>([&] {
              model(random_tensor({2, 3}, 1));
            }),
            "in model.first: [conv2d] input 0 is (2, 3), expected (N, 3, H, W)");
  nn::ResNet deep(nn::ResNet::cifar(8), nn::Init(1, device()));
  Open whole;
  whole.add_module("encoder", deep);
  EXPECT_EQ(message_of<ShapeError>([&] {
              deep(random_tensor({2, 5, 8, 8}, 1));
            }),
            "in encoder.conv0: [conv2d] input 0 is (2, 5, 8, 8), expected (N, 3, H, W)");
  const NoGrad no_grad;
  const std::string message = message_of<ValueError>([&] { model({}); });
  EXPECT_EQ(message, "in model.first: [conv2d] input 0 is an empty tensor");
}

TEST_F(ModuleTest, AnErrorBetweenLayersSaysInWhichBlock) {
  struct Unit : nn::Block<Tensor(Tensor)> {
    Tensor forward(Tensor x) override { return ops::add(x, ops::global_avg_pool(x)); }
  };
  struct Whole : nn::Model<Tensor(Tensor)> {
    Whole() { add_module("stage1.unit", unit); }
    Tensor forward(Tensor x) override { return ops::global_avg_pool(unit(std::move(x))); }
    Unit unit;
  };
  Whole model;
  const std::string message = message_of<ShapeError>([&] { model(random_tensor({2, 1, 8, 8}, 1)); });
  EXPECT_EQ(message.find("in model.stage1.unit: [add] input 1 is (2, 1), expected (2, 1, 8, 8)"), 0U) << message;
  EXPECT_EQ(message_of<ShapeError>([&] { model(random_tensor({2, 1}, 1)); }).find("in model.stage1.unit: "), 0U);
}

TEST_F(ModuleTest, AModelMayReadWhatOtherModelsHaveMade) {
  struct Part : nn::Model<Tensor(Tensor)> {
    explicit Part(nn::Init init) : conv(init, 2, 2, {.padding = ops::Padding::all(1)}), norm(init, 2, {.relu = true}) {
      add_module("conv", conv);
      add_module("norm", norm);
    }
    Tensor forward(Tensor x) override { return norm(conv(std::move(x))); }
    nn::Conv2d conv;
    nn::BatchNorm2d norm;
  };
  Part generator(nn::Init(1, device())), critic(nn::Init(2, device()));
  const Tensor prompt = random_tensor({2, 2, 5, 5}, 4).requires_grad();
  const Tensor y = critic(generator(ops::add(random_tensor({2, 2, 5, 5}, 3), prompt)));
  weighted_sum(y, random_tensor(y.shape(), 5)).backward();
  for (const Part* part : {&generator, &critic}) {
    for (const auto& [name, parameter] : part->parameters()) EXPECT_TRUE(parameter.grad()) << name;
  }
  EXPECT_TRUE(prompt.grad());
}

TEST_F(ModuleTest, AModelMayReturnAnEmptyTensor) {
  struct Pair : nn::Model<std::vector<Tensor>(Tensor)> {
    explicit Pair(nn::Init init) : conv(init, 2, 2, {.kernel = 1}) { add_module("conv", conv); }
    std::vector<Tensor> forward(Tensor x) override { return {conv(std::move(x)), Tensor()}; }
    nn::Conv2d conv;
  };
  Pair model(nn::Init(1, device()));
  EXPECT_FALSE(model(random_tensor({2, 2, 5, 5}, 3))[1]);
}

TEST_F(ModuleTest, LayersSayWhichInputTheyExpect) {
  nn::Init init(1, device());
  const nn::Linear linear(init, 6, 2);
  const nn::BatchNorm2d norm(init, 4);
  EXPECT_EQ(message_of<ShapeError>([&] {
              linear(random_tensor({2, 5}, 1));
            }),
            "[linear] input 0 is (2, 5), expected (N, 6)");
  EXPECT_EQ(message_of<ShapeError>([&] {
              linear(random_tensor({2, 6, 1, 1}, 1));
            }),
            "[linear] input 0 is (2, 6, 1, 1), expected (N, 6)");
  EXPECT_EQ(message_of<ShapeError>([&] {
              norm(random_tensor({2, 3, 5, 5}, 1));
            }),
            "[batch_norm] input 0 is (2, 3, 5, 5), expected (N, 4, H, W) or (N, 4)");
}

TEST_F(ModuleTest, StagesThatNarrowAreRefusedWhereTheModelIsMade) {
  nn::ResidualOptions spec = nn::ResNet::cifar(8);
  spec.filters = {16, 32, 24};
  const std::string message = message_of<ValueError>([&] { nn::ResNet(spec, nn::Init(1, device())); });
  EXPECT_NE(message.find("a unit of 24 channels behind 32"), std::string::npos) << message;
  spec.filters = {8, 32, 64};
  EXPECT_THROW(nn::ResNet(spec, nn::Init(1, device())), ValueError) << "behind a stem of 16";
  nn::ResidualOptions reversible = nn::RevNet::cifar(14);
  reversible.filters = {32, 64, 32};
  EXPECT_THROW(nn::RevNet(reversible, nn::Init(1, device())), ValueError);
  spec.bottleneck = true;
  spec.filters = {16, 8};
  spec.units = {1, 1};
  nn::ResNet narrows(spec, nn::Init(1, device()));
  EXPECT_NO_THROW(narrows(random_tensor({2, 3, 8, 8}, 1))) << "a projection can";
}

TEST_F(ModuleTest, AnOptimisersStateIsReadAndWrittenByName) {
  const Tensor images = random_tensor({2, 3, 4, 4}, 2);
  const auto step = [&](TwoConvolutions& model, nn::Sgd& sgd) {
    sgd.zero_grad();
    loss_of(model, images).backward();
    sgd.step();
  };
  TwoConvolutions model(nn::Init(1, device()), true);
  nn::Sgd sgd(model.parameters(), {});
  step(model, sgd);
  std::vector<nn::NamedTensor> saved;
  for (const auto& [name, tensor] : sgd.state()) saved.push_back({name, Tensor::zeros(tensor.shape(), tensor.dtype())});
  nn::assign_by_name(saved, sgd.state());
  TwoConvolutions other(nn::Init(2, device()), true);
  nn::assign_by_name(other.parameters(), model.parameters());
  nn::Sgd resumed(other.parameters(), {});
  std::swap(saved[0], saved[2]);  // names say which is which
  resumed.set_state(saved);
  EXPECT_EQ(names_of(resumed.state()), names_of(sgd.state()));
  step(model, sgd);
  step(other, resumed);
  EXPECT_EQ(other.state_digest(), model.state_digest());

  nn::Sgd fresh(other.parameters(), {});
  EXPECT_THROW(fresh.set_state(std::vector<nn::NamedTensor>{saved[1], {"third.weight.velocity", saved[1].tensor}}),
               ValueError);
  EXPECT_THROW(fresh.set_state(std::vector<nn::NamedTensor>{{"first.weight.velocity", zeros({1})}}), ShapeError);
  EXPECT_TRUE(fresh.state().empty()) << "nothing has changed";
  fresh.set_state(std::vector<nn::NamedTensor>{saved[1]});
  EXPECT_EQ(fresh.state().size(), 1U);
  nn::Sgd without(other.parameters(), {.momentum = 0});
  EXPECT_THROW(without.set_state(saved), ValueError);
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
