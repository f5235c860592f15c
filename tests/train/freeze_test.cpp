// Parameters that are not trained (Task::frozen): what they keep, which is nothing, and what stays as it is.

#include <gtest/gtest.h>

#include <map>
#include <memory>

#include <palimpsest/datasets/synthetic.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/trainer.hpp>
#include "tests/support/temporary_folder.hpp"
#include "tests/train/small_tasks.hpp"

namespace palimpsest::train {
namespace {

constexpr std::int64_t classes = 7;
constexpr std::int64_t channels = 24;   // that the last normalisation and the classifier of this net read
constexpr std::int64_t pixels = 4 * 4;  // there, of images of 32x32

nn::DenseNetOptions densenet() {
  return {.layers = {2, 2}, .growth_rate = 4, .stem_channels = 24, .imagenet_stem = true, .classes = classes};
}

Task task_of(std::vector<std::string> frozen, bool statistics = false) {
  const auto images =
      std::make_shared<datasets::ImageSet>(datasets::synthetic({.count = 20, .classes = classes, .seed = 3}));
  Task task =
      test::image_task([](nn::Init init) { return std::make_unique<nn::DenseNet>(densenet(), std::move(init)); });
  task.training = image_data("synthetic", images, {.seed = 5});
  task.evaluation = {};
  task.frozen = std::move(frozen);
  task.freeze_statistics = statistics;
  return task;
}

Options run_of(const std::string& memory) { return {.memory = memory, .batch_size = 5, .epochs = 2, .quiet = true}; }

std::vector<std::string> all_but(const std::string& trained) {
  const nn::DenseNet net(densenet(), nn::Init(0, Device::MetaCpu));
  std::vector<std::string> names;
  for (const auto& [name, parameter] : net.parameters()) {
    if (!name.starts_with(trained)) names.push_back(name);
  }
  return names;
}

/// Bytes that a forward keeps for its backward.
std::size_t kept_bytes(const Task& task, const std::string& memory, std::int64_t images) {
  Training training(task, nn::Init(0, Device::MetaCpu));
  training.model().set_memory(memory::parse(memory).policy());
  const std::vector<Tensor> batch = {Tensor::empty({images, 3, 32, 32}, Dtype::Float32, Device::MetaCpu, Tag::Data),
                                     Tensor::empty({images}, Dtype::Int32, Device::MetaCpu, Tag::Data)};
  const std::size_t before = allocator(Device::MetaCpu).stats().live;
  const Tensor loss = training.loss(batch);
  return allocator(Device::MetaCpu).stats().live - before;
}

const std::vector<std::string> policies = {"store-all",         "shared",     "checkpoint",
                                           "checkpoint+shared", "reversible", "offload"};

/// The features that a trained classifier reads, its scores, and the loss; and what puts running statistics back if the
/// step fails: those before and the batch's, twice each.
TEST(Freeze, FrozenPartsKeepNothingUnderAnyPolicy) {
  std::int64_t statistics = 0;
  const nn::DenseNet net(densenet(), nn::Init(0, Device::MetaCpu));
  for (const auto& [name, buffer] : net.buffers()) statistics += buffer.shape().count();
  for (const std::string& memory : policies) {
    for (const std::int64_t images : {1, 5}) {
      const std::int64_t kept = images * (channels + classes) + 1;
      EXPECT_EQ(kept_bytes(task_of(all_but("classifier"), true), memory, images), sizeof(float) * kept) << memory;
      EXPECT_EQ(kept_bytes(task_of(all_but("classifier")), memory, images), sizeof(float) * (kept + 2 * statistics))
          << memory;
    }
  }
}

/// Only what the first trained layer reads stays of those before it.
TEST(Freeze, FrozenPartsHandOnWhatTheNextOneReads) {
  const Task task = task_of({"conv0.*", "norm0.*", "dense*", "transition1.*"}, true);
  for (const std::string& memory : policies) {
    EXPECT_EQ(kept_bytes(task, memory, 5) - kept_bytes(task, memory, 1),
              sizeof(float) * 4 * (channels * pixels + channels + classes))
        << memory;
  }
}

/// A convolution that is frozen behind one that is trained hands its gradient on and has no use for its input.
TEST(Freeze, AFrozenLayerBetweenTrainedOnesKeepsNothingButItsWeight) {
  nn::Init init(0, Device::MetaCpu);
  nn::Conv2d first(init, 3, 8, {.padding = ops::Padding::all(1)});
  nn::Conv2d second(init, 8, 8, {.padding = ops::Padding::all(1)});
  const Tensor images = Tensor::empty({2, 3, 16, 16}, Dtype::Float32, Device::MetaCpu, Tag::Data);
  const auto kept = [&] {
    const std::size_t before = allocator(Device::MetaCpu).stats().live;
    const Tensor y = second(first(images));
    return allocator(Device::MetaCpu).stats().live - before;
  };
  constexpr std::size_t image = sizeof(float) * 2 * 8 * 16 * 16;
  EXPECT_EQ(kept(), 2 * image);
  second.freeze(std::vector<std::string>{"weight"});
  EXPECT_EQ(kept(), image);
}

using Values = std::map<std::string, std::vector<float>>;

Values values_of(const std::vector<nn::NamedTensor>& tensors) {
  Values values;
  for (const auto& [name, tensor] : tensors) values[name] = tensor.to_vector<float>();
  return values;
}

TEST(Freeze, WhatIsFrozenStaysAndTheRestIsTrained) {
  for (const bool statistics : {false, true}) {
    const Task task = task_of({"conv0.*", "norm0.*", "dense1.*"}, statistics);
    const Options options = run_of("store-all");
    Trainer trainer(task, options, choose_memory(task, options));
    const Values weights = values_of(trainer.model().parameters());
    const Values buffers = values_of(trainer.model().buffers());
    trainer.run();
    const auto is_frozen = [](const std::string& name) {
      return name.starts_with("conv0.") || name.starts_with("norm0.") || name.starts_with("dense1.");
    };
    for (const auto& [name, values] : values_of(trainer.model().parameters())) {
      EXPECT_EQ(values == weights.at(name), is_frozen(name)) << name;
    }
    for (const auto& [name, values] : values_of(trainer.model().buffers())) {
      EXPECT_EQ(values == buffers.at(name), statistics && is_frozen(name)) << name;
    }
    for (const auto& [name, state] : trainer.optimiser().state()) EXPECT_FALSE(is_frozen(name)) << name;
  }
}

TEST(Freeze, TakesTheMemoryThatWasForeseenAndTheSameBitsUnderEveryPolicy) {
  for (const bool statistics : {false, true}) {
    const Task task = task_of({"conv0.*", "norm0.*", "dense1.layer1.*", "transition1.*"}, statistics);
    std::string digest;
    for (const char* const memory :
         {"store-all", "shared", "checkpoint", "checkpoint+shared", "offload", "budget=700KiB"}) {
      const Options options = run_of(memory);
      const MemoryChoice choice = choose_memory(task, options);
      const Forecast forecast = rehearse(task, options, choice);
      Trainer trainer(task, options, choice);
      trainer.run();
      EXPECT_EQ(trainer.peak().total, forecast.peak.total) << memory;
      if (digest.empty()) digest = trainer.model().state_digest();
      EXPECT_EQ(trainer.model().state_digest(), digest) << memory;
    }
  }
}

/// Neither training nor evaluation of the others is touched by what stays in evaluation mode.
TEST(Freeze, StatisticsThatStayAreThoseOfEvaluation) {
  nn::Init init(1);
  nn::DenseNet net(densenet(), init);
  net.freeze(std::vector<std::string>{"*"}, true);
  Random random(5);
  std::vector<float> pixels(2 * 3 * 32 * 32);
  for (float& pixel : pixels) pixel = static_cast<float>(random.normal());
  const Tensor images = Tensor::from_vector({2, 3, 32, 32}, pixels);
  const auto scores = [&] {
    const NoGrad no_grad;
    return net(images).to_vector<float>();
  };
  const std::vector<float> training = scores();
  net.train(false);
  EXPECT_EQ(scores(), training);
  net.train(true);
  EXPECT_EQ(scores(), training);
}

TEST(Freeze, RefusesWhatMakesNoSense) {
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  nn::DenseNet net(densenet(), nn::Init(0, Device::MetaCpu));
  EXPECT_NE(message([&] {
              net.freeze(std::vector<std::string>{"conv0.*", "dense9.*"});
            }).find("'dense9.*' matches no parameter"),
            std::string::npos);
  for (const auto& [name, parameter] : net.parameters()) EXPECT_TRUE(parameter.requires_grad_on()) << name;
  EXPECT_NE(message([] { Training(task_of({"*"}), nn::Init(0, Device::MetaCpu)); }).find("are frozen"),
            std::string::npos);
}

#ifdef PALIMPSEST_HAS_STORAGE
TEST(Freeze, ARunThatTrainsOtherPartsIsAnother) {
  const testing::TemporaryFolder folder;
  Options options = run_of("store-all");
  options.checkpoints.folder = folder / "run";
  const auto run = [&](const Task& task) {
    Trainer trainer(task, options, choose_memory(task, options));
    trainer.run();
  };
  run(task_of({"conv0.*"}));
  options.checkpoints = {};
  options.resume = folder / "run";
  options.epochs = 3;
  EXPECT_THROW(run(task_of({})), ResumeError);
  EXPECT_THROW(run(task_of({"conv0.*", "norm0.*"})), ResumeError);
  EXPECT_THROW(run(task_of({"conv0.*"}, true)), ResumeError);
  EXPECT_NO_THROW(run(task_of({"conv0.*"})));
}
#endif

}  // namespace
}  // namespace palimpsest::train
