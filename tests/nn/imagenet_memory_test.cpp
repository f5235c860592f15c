// The floats that networks for ImageNet keep from forward to backward for each image of 224x224 pixels, by formulas
// over their architecture: on a meta device.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest {
namespace {

/// Floats that stay for a batch when forward is over.
template <class Model, class Spec>
std::int64_t kept_floats(const Spec& spec, std::string_view rules, std::int64_t batch) {
  const Device meta = test::meta_device();
  Model model(spec, nn::Init(0, meta));
  model.set_memory(memory::assign(memory::parse(rules).rules(), model.block_names()));
  const Tensor images = Tensor::empty({batch, 3, 224, 224}, Dtype::Float32, meta, Tag::Data);
  const Tensor labels = Tensor::empty({batch}, Dtype::Int32, meta, Tag::Data);
  const auto live = [&] { return allocator(meta).stats().live_by_tag[static_cast<std::size_t>(Tag::Activation)]; };
  const std::size_t before = live();
  const Tensor loss = ops::cross_entropy(model(images), labels);
  return static_cast<std::int64_t>((live() - before) / sizeof(float));
}

/// Floats for each further image.
template <class Model, class Spec>
std::int64_t kept_per_image(const Spec& spec, std::string_view rules) {
  return kept_floats<Model>(spec, rules, 2) - kept_floats<Model>(spec, rules, 1);
}

constexpr std::int64_t stem_pixels = 112 * 112;
constexpr std::int64_t pooled_pixels = 56 * 56;

/// The sums over a DenseNet's blocks, for layers that are all there for backward or are not.
struct DenseSums {
  std::int64_t inputs = 0;        ///< of all layers, their channels joined
  std::int64_t features = 0;      ///< new ones of all layers
  std::int64_t first_copies = 0;  ///< a growth rate for each pixel of each block
  std::int64_t outputs = 0;       ///< of the blocks before the last
  std::int64_t last_output = 0;
  std::int64_t transitions = 0;  ///< their outputs
  std::int64_t head = 0;         ///< the mean and the class scores
};

DenseSums sums_of(const nn::DenseNetOptions& spec) {
  DenseSums sums;
  const std::int64_t k = spec.growth_rate;
  std::int64_t channels = spec.stem_channels;
  std::int64_t pixels = pooled_pixels;
  for (std::size_t b = 0; b < spec.layers.size(); ++b) {
    const std::int64_t n = spec.layers[b];
    sums.inputs += pixels * (n * channels + k * n * (n - 1) / 2);
    sums.features += pixels * n * k;
    sums.first_copies += pixels * k;
    channels += n * k;
    if (b + 1 == spec.layers.size()) {
      sums.last_output = pixels * channels;
      sums.head = channels + spec.classes;
      break;
    }
    sums.outputs += pixels * channels;
    channels /= 2;
    pixels /= 4;
    sums.transitions += pixels * channels;
  }
  return sums;
}

TEST(ImageNetMemory, OfDenseNets) {
  for (const auto& [depth, growth] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {121, 0}, {169, 0}, {201, 0}, {161, 0}, {264, 0}, {264, 48}}) {
    const nn::DenseNetOptions spec = nn::DenseNetOptions::imagenet(depth, growth);
    const DenseSums of = sums_of(spec);
    const std::int64_t conv = spec.stem_channels * stem_pixels;  // and its BN-ReLU
    const std::int64_t pooled = spec.stem_channels * pooled_pixels;
    const std::int64_t rest = of.transitions + pooled + of.head;
    const auto kept = [&](std::string_view rules) { return kept_per_image<nn::DenseNet>(spec, rules); };
    EXPECT_EQ(kept("store-all"),
              of.inputs + 9 * of.features - of.first_copies + 2 * of.outputs + of.last_output + 2 * conv + rest)
        << depth;
    EXPECT_EQ(kept("shared"), 5 * of.features + conv + rest) << depth;
    EXPECT_EQ(kept("checkpoint"), of.outputs + rest) << depth;
    EXPECT_EQ(kept("checkpoint+shared"), rest) << depth;
  }
}

/// The sums over a residual network's units, of all channels.
struct UnitSums {
  std::int64_t inside = 0;  ///< residual functions, and the unit's input but for the first
  std::int64_t outputs = 0;
  std::int64_t last_output = 0;
  std::int64_t stages = 0;  ///< outputs of stages
  std::int64_t stem = 0;    ///< what its convolution and its normalisation make
  std::int64_t ends = 0;    ///< what it hands on, and the head
};

/// `streams` have the residual functions of a unit, one each.
UnitSums sums_of(const nn::ResidualOptions& spec, std::int64_t streams) {
  UnitSums sums;
  sums.stem = 2 * spec.stem_channels * stem_pixels;
  sums.ends = spec.stem_channels * pooled_pixels + spec.stage_channels(3) + spec.classes;
  std::int64_t in = spec.stem_channels;
  std::int64_t in_pixels = pooled_pixels;
  std::int64_t pixels = pooled_pixels;
  for (std::size_t s = 0; s < spec.units.size(); ++s) {
    const std::int64_t out = spec.stage_channels(s);
    if (s > 0) pixels /= 4;
    for (std::int64_t u = 0; u < spec.units[s]; ++u) {
      const std::int64_t middle = out / 4 * pixels;  // of all streams together
      if (s > 0 || u > 0) sums.inside += in * in_pixels / streams;
      if (streams == 2) sums.inside += out * pixels / 2;
      sums.inside += 4 * middle + out * pixels;
      sums.outputs += sums.last_output = out * pixels;
      in = out;
      in_pixels = pixels;
    }
    sums.stages += out * pixels;
  }
  return sums;
}

TEST(ImageNetMemory, OfRevNets) {
  for (const std::int64_t depth : {56, 104}) {
    const nn::ResidualOptions spec = nn::RevNet::imagenet(depth);
    const UnitSums of = sums_of(spec, 2);
    const auto kept = [&](std::string_view rules) { return kept_per_image<nn::RevNet>(spec, rules); };
    EXPECT_EQ(kept("store-all"), of.stem + of.ends + of.inside) << depth;
    EXPECT_EQ(kept("reversible"), of.stem + of.ends + of.stages) << depth;
    EXPECT_EQ(kept("stem=checkpoint,*=reversible"), of.ends + of.stages) << depth;
    EXPECT_EQ(kept("checkpoint"), of.ends + of.outputs - of.last_output) << depth;
  }
}

TEST(ImageNetMemory, OfResNets) {
  for (const std::int64_t depth : {50, 101}) {
    const nn::ResidualOptions spec = nn::ResNet::imagenet(depth);
    const UnitSums of = sums_of(spec, 1);
    const auto kept = [&](std::string_view rules) { return kept_per_image<nn::ResNet>(spec, rules); };
    EXPECT_EQ(kept("store-all"), of.stem + of.ends + of.inside) << depth;
    EXPECT_EQ(kept("checkpoint"), of.ends + of.outputs - of.last_output) << depth;
  }
}

}  // namespace
}  // namespace palimpsest
