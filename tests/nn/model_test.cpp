// The models' sizes, and their memory under every policy: on a meta device, where a step of any size costs nothing
// and gives the very peak that a real one has (asserted for small ones).

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/imagenet_resnet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest {
namespace {

constexpr double mebibyte = 1 << 20;

nn::DenseNetOptions densenet(std::int64_t depth, std::int64_t growth, std::int64_t classes = 10) {
  nn::DenseNetOptions spec = nn::DenseNetOptions::cifar(depth, growth);
  spec.classes = classes;
  return spec;
}

std::int64_t parameters(const nn::DenseNetOptions& spec) {
  return nn::DenseNet(spec, nn::Init(0, test::meta_device())).parameter_count();
}

template <class Model>
std::int64_t parameters(nn::ResidualOptions spec, std::int64_t classes) {
  spec.classes = classes;
  return Model(spec, nn::Init(0, test::meta_device())).parameter_count();
}

TEST(ParameterCount, DenseNetForCifar) {
  EXPECT_EQ(parameters(densenet(40, 12)), 176'122);
  EXPECT_EQ(parameters(densenet(40, 12, 100)), 188'092);
  EXPECT_EQ(parameters(densenet(100, 12)), 769'162);
  EXPECT_EQ(parameters(densenet(100, 12, 100)), 800'032);
  EXPECT_EQ(parameters(densenet(250, 24)), 15'324'406);
  EXPECT_EQ(parameters(densenet(250, 24, 100)), 15'480'556);
  EXPECT_EQ(parameters(densenet(190, 40)), 25'624'430);
  EXPECT_EQ(parameters(densenet(190, 40, 100)), 25'821'620);
  nn::DenseNetOptions grey = densenet(100, 12);
  grey.image_channels = 1;
  EXPECT_EQ(parameters(grey), 768'730);
}

TEST(ParameterCount, DenseNetForImageNet) {
  EXPECT_EQ(parameters(nn::DenseNetOptions::imagenet(121)), 7'978'856);
  EXPECT_EQ(parameters(nn::DenseNetOptions::imagenet(169)), 14'149'480);
  EXPECT_EQ(parameters(nn::DenseNetOptions::imagenet(201)), 20'013'928);
  EXPECT_EQ(parameters(nn::DenseNetOptions::imagenet(161)), 28'681'000);
  EXPECT_EQ(parameters(nn::DenseNetOptions::imagenet(264)), 33'337'704);
  EXPECT_EQ(parameters(nn::DenseNetOptions::imagenet(264, 48)), 72'686'632);
  EXPECT_EQ(parameters(nn::DenseNetOptions::imagenet(232)), 55'570'984);
}

TEST(ParameterCount, ResNetForImageNet) {
  const auto count = [](std::int64_t depth) {
    return nn::ImageNetResNet(nn::ImageNetResNetOptions::of_depth(depth), nn::Init(0, test::meta_device()))
        .parameter_count();
  };
  EXPECT_EQ(count(50), 25'557'032);
  EXPECT_EQ(count(101), 44'549'160);
  EXPECT_EQ(count(152), 60'192'808);
  EXPECT_THROW(count(34), ValueError);
}

TEST(ParameterCount, ResidualNetworksForImageNet) {
  EXPECT_EQ(parameters<nn::ResNet>(nn::ResNet::imagenet(50), 1000), 25'549'352);
  EXPECT_EQ(parameters<nn::ResNet>(nn::ResNet::imagenet(101), 1000), 44'541'480);
  EXPECT_EQ(parameters<nn::RevNet>(nn::RevNet::imagenet(56), 1000), 27'553'128);
  EXPECT_EQ(parameters<nn::RevNet>(nn::RevNet::imagenet(104), 1000), 45'428'072);
  EXPECT_THROW(nn::ResNet::imagenet(110), ValueError);
  EXPECT_THROW(nn::RevNet::imagenet(50), ValueError);
}

TEST(ParameterCount, ResidualNetworksForCifar) {
  EXPECT_EQ(parameters<nn::ResNet>(nn::ResNet::cifar(32), 10), 464'154);
  EXPECT_EQ(parameters<nn::ResNet>(nn::ResNet::cifar(32), 100), 470'004);
  EXPECT_EQ(parameters<nn::ResNet>(nn::ResNet::cifar(110), 10), 1'727'962);
  EXPECT_EQ(parameters<nn::ResNet>(nn::ResNet::cifar(110), 100), 1'733'812);
  EXPECT_EQ(parameters<nn::ResNet>(nn::ResNet::cifar(164, true), 10), 1'703'258);
  EXPECT_EQ(parameters<nn::ResNet>(nn::ResNet::cifar(164, true), 100), 1'726'388);
  EXPECT_EQ(parameters<nn::RevNet>(nn::RevNet::cifar(38), 10), 464'890);
  EXPECT_EQ(parameters<nn::RevNet>(nn::RevNet::cifar(38), 100), 475'060);
  EXPECT_EQ(parameters<nn::RevNet>(nn::RevNet::cifar(110), 10), 1'729'194);
  EXPECT_EQ(parameters<nn::RevNet>(nn::RevNet::cifar(110), 100), 1'740'804);
  EXPECT_EQ(parameters<nn::RevNet>(nn::RevNet::cifar(164, true), 10), 1'748'778);
  EXPECT_EQ(parameters<nn::RevNet>(nn::RevNet::cifar(164, true), 100), 1'794'948);
}

TEST(ModelSpec, ImpossibleDepthsNameTheNeighbours) {
  const auto message = [](const auto& make) -> std::string {
    try {
      make();
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message([] { nn::DenseNetOptions::cifar(101, 12); }).find("100 or 106"), std::string::npos);
  EXPECT_NE(message([] { nn::RevNet::cifar(100); }).find("98 or 110"), std::string::npos);
  EXPECT_NE(message([] { nn::ResNet::cifar(0); }).find("8 or 14"), std::string::npos);
  EXPECT_NE(message([] { nn::DenseNetOptions::imagenet(100); }).find("121"), std::string::npos);
}

/// Two training steps of a model on random images; returns the allocator's statistics of the second.
template <class Model, class TensorSpec>
MemoryStats peak_of_step(const TensorSpec& spec, std::int64_t batch, std::string_view policy, Device device) {
  Allocator& memory = allocator(device);
  Model model(spec, nn::Init(0, device));
  model.set_memory(memory::parse(policy).policy());
  nn::Sgd sgd(model.parameters(), {});
  const Tensor images = Tensor::zeros({batch, spec.image_channels, 32, 32}, Dtype::Float32, device, Tag::Data);
  const Tensor labels = Tensor::zeros({batch}, Dtype::Int32, device, Tag::Data);
  for (int step = 0; step < 2; ++step) {
    memory.reset_peak();
    sgd.zero_grad();
    ops::cross_entropy(model(images), labels).backward();
    sgd.step();
  }
  return memory.stats();
}

double densenet_peak(std::int64_t depth, std::int64_t batch, std::string_view policy) {
  return static_cast<double>(peak_of_step<nn::DenseNet>(densenet(depth, 12), batch, policy, test::meta_device()).peak);
}

/// The bytes of activations and their gradients at the peak: everything but what a model of that size has anyway. If
/// the peak lies in backward, the parameters' gradients are there by then: as many bytes as the optimiser's velocities.
double activation_peak(const MemoryStats& stats) {
  const auto bytes = [&](Tag tag) { return static_cast<double>(stats.peak_by_tag[static_cast<std::size_t>(tag)]); };
  const double gradients = std::max(0.0, bytes(Tag::Gradient) - bytes(Tag::Optimiser));
  return bytes(Tag::Activation) + bytes(Tag::Arena) + bytes(Tag::Workspace) + gradients;
}

TEST(Memory, ThePeakOnMetaIsTheMeasuredOne) {
  const std::int64_t batch = test::emulated() ? 1 : 3;
  for (const std::string_view policy : {"store-all", "shared", "checkpoint", "offload"}) {
    const auto meta = peak_of_step<nn::DenseNet>(densenet(22, 12), batch, policy, test::meta_device());
    const auto measured = peak_of_step<nn::DenseNet>(densenet(22, 12), batch, policy, test::device());
    EXPECT_EQ(meta.peak, measured.peak) << policy;
    EXPECT_EQ(meta.peak_by_tag, measured.peak_by_tag) << policy;
  }
  for (const std::string_view policy : memory::names()) {
    const auto meta = peak_of_step<nn::RevNet>(nn::RevNet::cifar(14), batch, policy, test::meta_device());
    const auto measured = peak_of_step<nn::RevNet>(nn::RevNet::cifar(14), batch, policy, test::device());
    EXPECT_EQ(meta.peak, measured.peak) << policy;
    EXPECT_EQ(meta.peak_by_tag, measured.peak_by_tag) << policy;
  }
}

TEST(Memory, TagsAddUpAtThePeak) {
  const auto stats = peak_of_step<nn::DenseNet>(densenet(40, 12), 64, "shared", test::meta_device());
  std::size_t sum = 0;
  for (const std::size_t bytes : stats.peak_by_tag) sum += bytes;
  EXPECT_EQ(sum, stats.peak);
}

TEST(Memory, DenseNetBc100AtBatch64) {
  const double store_all = densenet_peak(100, 64, "store-all");
  EXPECT_LE(store_all, 1500 * mebibyte);
  EXPECT_LE(densenet_peak(100, 64, "shared"), 480 * mebibyte);
  EXPECT_LE(densenet_peak(100, 64, "checkpoint"), 0.75 * store_all);
  // The bounded workspace of CUDA's convolutions counts where little else is left.
  const double most = test::device() == Device::Cuda ? 220 : 180;
  EXPECT_LE(densenet_peak(100, 64, "offload"), most * mebibyte);
}

std::vector<double> second_differences_over_first(std::string_view policy) {
  std::vector<double> peaks;
  // In a shallower network the bounded workspace of CUDA's convolutions decides where the peak is.
  for (const std::int64_t depth : {100, 130, 160, 190, 220, 250}) peaks.push_back(densenet_peak(depth, 64, policy));
  std::vector<double> ratios;
  for (std::size_t i = 2; i < peaks.size(); ++i) {
    ratios.push_back((peaks[i] - 2 * peaks[i - 1] + peaks[i - 2]) / (peaks[1] - peaks[0]));
  }
  return ratios;
}

TEST(Memory, DenseNetIsLinearInDepthUnderShared) {
  for (const double ratio : second_differences_over_first("shared")) EXPECT_NEAR(ratio, 0, 0.02);
}

TEST(Memory, DenseNetIsQuadraticInDepthUnderStoreAll) {
  const std::vector<double> ratios = second_differences_over_first("store-all");
  for (const double ratio : ratios) {
    EXPECT_GT(ratio, 0.1);
    EXPECT_NEAR(ratio, ratios[0], 0.02 * ratios[0]);  // constant second differences: a parabola
  }
}

TEST(Memory, RevNet110AtBatch100) {
  const auto spec = nn::RevNet::cifar(110);
  const double store_all = activation_peak(peak_of_step<nn::RevNet>(spec, 100, "store-all", test::meta_device()));
  EXPECT_LE(store_all, 900 * mebibyte);
  EXPECT_LE(activation_peak(peak_of_step<nn::RevNet>(spec, 100, "checkpoint", test::meta_device())), 0.45 * store_all);
  EXPECT_LE(activation_peak(peak_of_step<nn::RevNet>(spec, 100, "reversible", test::meta_device())), 160 * mebibyte);
}

TEST(Memory, RevNetDoesNotGrowWithDepthUnderReversible) {
  const auto peak = [](std::int64_t depth) {
    nn::ResidualOptions spec = nn::RevNet::cifar(depth);
    spec.filters = {32, 64, 128};
    return activation_peak(peak_of_step<nn::RevNet>(spec, 100, "reversible", test::meta_device()));
  };
  EXPECT_NEAR(peak(38), peak(110), 0.01 * peak(110));
  EXPECT_NEAR(peak(218), peak(110), 0.01 * peak(110));
}

/// Enough for a difference in one bit to spread; the emulator takes a second for each.
int steps_to_digest() { return test::emulated() ? 3 : 20; }

/// Digest after training on random images.
template <class Model, class TensorSpec>
std::string digest_after_training(const TensorSpec& spec, std::string_view policy, int threads) {
  set_thread_count(threads);
  Model model(spec, nn::Init(7, test::device()));
  model.set_memory(memory::parse(policy).policy());
  nn::Sgd sgd(model.parameters(), {});
  Random random(3);
  for (int step = 0; step < steps_to_digest(); ++step) {
    std::vector<float> pixels(static_cast<std::size_t>(4 * spec.image_channels * 16 * 16));
    for (float& pixel : pixels) pixel = static_cast<float>(random.normal());
    std::vector<std::int32_t> labels(4);
    for (auto& label : labels) label = static_cast<std::int32_t>(random.below(10));
    sgd.zero_grad();
    const Tensor images = test::from_vector({4, spec.image_channels, 16, 16}, pixels, Tag::Data);
    ops::cross_entropy(model(images), test::from_vector({4}, labels)).backward();
    sgd.step();
  }
  return model.state_digest();
}

/// Restores the number of threads that other tests run with.
class Digest : public ::testing::TestWithParam<int> {
 protected:
  ~Digest() override { set_thread_count(before_); }

 private:
  int before_ = thread_count();
};

TEST_P(Digest, DenseNetIsTheSameUnderEveryPolicy) {
  nn::DenseNetOptions spec = densenet(22, 12);
  spec.dropout = 0.2;
  const std::string expected = digest_after_training<nn::DenseNet>(spec, "store-all", GetParam());
  EXPECT_EQ(digest_after_training<nn::DenseNet>(spec, "shared", GetParam()), expected);
  EXPECT_EQ(digest_after_training<nn::DenseNet>(spec, "checkpoint", GetParam()), expected);
  EXPECT_EQ(digest_after_training<nn::DenseNet>(spec, "offload", GetParam()), expected);
}

TEST_P(Digest, RevNetIsTheSameUnderEveryPolicy) {
  const nn::ResidualOptions spec = nn::RevNet::cifar(26);
  const std::string expected = digest_after_training<nn::RevNet>(spec, "store-all", GetParam());
  EXPECT_EQ(digest_after_training<nn::RevNet>(spec, "shared", GetParam()), expected);
  EXPECT_EQ(digest_after_training<nn::RevNet>(spec, "checkpoint", GetParam()), expected);
  EXPECT_EQ(digest_after_training<nn::RevNet>(spec, "offload", GetParam()), expected);
}

TEST_P(Digest, RevNetOnAGridIsTheSameUnderReversibleToo) {
  nn::ResidualOptions spec = nn::RevNet::cifar(26);
  spec.grid = 16;
  const std::string expected = digest_after_training<nn::RevNet>(spec, "store-all", GetParam());
  EXPECT_EQ(digest_after_training<nn::RevNet>(spec, "reversible", GetParam()), expected);
  EXPECT_EQ(digest_after_training<nn::RevNet>(spec, "checkpoint", GetParam()), expected);
  EXPECT_EQ(digest_after_training<nn::RevNet>(spec, "offload", GetParam()), expected);
}

TEST_P(Digest, ImageNetResNetIsTheSameUnderEveryPolicy) {
  const nn::ImageNetResNetOptions spec = {.units = {2, 1}, .filters = {4, 8}, .stem_channels = 8, .classes = 10};
  const std::string expected = digest_after_training<nn::ImageNetResNet>(spec, "store-all", GetParam());
  EXPECT_EQ(digest_after_training<nn::ImageNetResNet>(spec, "shared", GetParam()), expected);
  EXPECT_EQ(digest_after_training<nn::ImageNetResNet>(spec, "checkpoint", GetParam()), expected);
  EXPECT_EQ(digest_after_training<nn::ImageNetResNet>(spec, "offload", GetParam()), expected);
}

/// ImageNet's stem is a block that policies act on, too.
TEST_P(Digest, NetworksWithImageNetsStemAreTheSameUnderEveryPolicy) {
  nn::DenseNetOptions densenet{.layers = {2, 2}, .growth_rate = 4, .stem_channels = 8, .imagenet_stem = true};
  nn::ResidualOptions residual{
      .units = {1, 2}, .filters = {4, 8}, .stem_channels = 8, .imagenet_stem = true, .bottleneck = true, .grid = 16};
  const auto densenet_digest = [&](std::string_view policy) {
    return digest_after_training<nn::DenseNet>(densenet, policy, GetParam());
  };
  const auto resnet_digest = [&](std::string_view policy) {
    return digest_after_training<nn::ResNet>(residual, policy, GetParam());
  };
  const auto revnet_digest = [&](std::string_view policy) {
    return digest_after_training<nn::RevNet>(residual, policy, GetParam());
  };
  const std::string expected_densenet = densenet_digest("store-all");
  const std::string expected_resnet = resnet_digest("store-all");
  const std::string expected_revnet = revnet_digest("store-all");
  for (const std::string_view policy : {"shared", "checkpoint", "checkpoint+shared", "offload"}) {
    EXPECT_EQ(densenet_digest(policy), expected_densenet) << policy;
    EXPECT_EQ(resnet_digest(policy), expected_resnet) << policy;
    EXPECT_EQ(revnet_digest(policy), expected_revnet) << policy;
  }
  EXPECT_EQ(revnet_digest("reversible"), expected_revnet);
}

/// At an eighth of its width.
TEST_P(Digest, RevNet104OnAGridIsTheSameUnderReversible) {
  if (test::emulated()) GTEST_SKIP() << "takes the emulator minutes";
  nn::ResidualOptions spec = nn::RevNet::imagenet(104);
  spec.stem_channels /= 8;
  for (std::int64_t& filters : spec.filters) filters /= 8;
  spec.classes = 10;
  spec.grid = 16;
  const std::string expected = digest_after_training<nn::RevNet>(spec, "store-all", GetParam());
  EXPECT_EQ(digest_after_training<nn::RevNet>(spec, "reversible", GetParam()), expected);
}

INSTANTIATE_TEST_SUITE_P(Threads, Digest, ::testing::Values(1, 2));

TEST(ThreadCount, DoesNotChangeTheDigest) {
  const int before = thread_count();
  const std::string one = digest_after_training<nn::DenseNet>(densenet(22, 12), "shared", 1);
  EXPECT_EQ(digest_after_training<nn::DenseNet>(densenet(22, 12), "shared", 3), one);
  set_thread_count(before);
}

}  // namespace
}  // namespace palimpsest
