#include <palimpsest/nn/models/densenet.hpp>

#include <cmath>

#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/pool.hpp>

namespace palimpsest::nn {
namespace {

constexpr std::int64_t bottleneck_width = 4;  // channels of a bottleneck in growth rates
constexpr BatchNormOptions norm_relu = {.relu = true};

Conv2dOptions same_size(std::int64_t kernel) { return {.kernel = kernel, .padding = ops::Padding::all(kernel / 2)}; }

void check(const DenseNetOptions& spec) {
  const auto require = [](bool met, const char* what) {
    if (!met) throw ValueError(concat_text("DenseNet: ", what));
  };
  require(!spec.layers.empty(), "needs at least one dense block");
  for (const std::int64_t layers : spec.layers) require(layers >= 1, "a dense block needs at least one layer");
  require(spec.growth_rate >= 1, "the growth rate must be positive");
  require(spec.compression > 0 && spec.compression <= 1, "the compression must be above 0 and at most 1");
  require(spec.stem_channels >= 1 && spec.image_channels >= 1, "numbers of channels must be positive");
  require(spec.classes >= 2, "needs at least two classes");
}

}  // namespace

DenseNetOptions DenseNetOptions::cifar(std::int64_t depth, std::int64_t growth_rate, bool bottleneck) {
  const std::int64_t step = bottleneck ? 6 : 3;
  const std::int64_t layers = (depth - 4) / step;
  if (layers < 1 || layers * step + 4 != depth) {
    const std::int64_t below = std::max<std::int64_t>(layers, 1) * step + 4;
    throw ValueError(concat_text("DenseNet", bottleneck ? "-BC" : "", " depth is ", depth,
                                 ", expected 4 plus a multiple of ", step, ", like ", below, " or ", below + step));
  }
  DenseNetOptions spec;
  spec.layers = {layers, layers, layers};
  spec.growth_rate = growth_rate;
  spec.bottleneck = bottleneck;
  spec.compression = bottleneck ? 0.5 : 1.0;
  spec.stem_channels = bottleneck ? 2 * growth_rate : 16;
  return spec;
}

DenseNetOptions DenseNetOptions::imagenet(std::int64_t depth, std::int64_t growth_rate) {
  DenseNetOptions spec;
  switch (depth) {
    case 121:
      spec.layers = {6, 12, 24, 16};
      break;
    case 161:
      spec.layers = {6, 12, 36, 24};
      break;
    case 169:
      spec.layers = {6, 12, 32, 32};
      break;
    case 201:
      spec.layers = {6, 12, 48, 32};
      break;
    case 232:
      spec.layers = {6, 12, 48, 48};
      break;
    case 264:
      spec.layers = {6, 12, 64, 48};
      break;
    default:
      throw ValueError(concat_text("DenseNet depth is ", depth, ", expected 121, 161, 169, 201, 232 or 264"));
  }
  spec.growth_rate = growth_rate != 0 ? growth_rate : depth == 161 || depth == 232 ? 48 : 32;
  spec.stem_channels = 2 * spec.growth_rate;
  spec.imagenet_stem = true;
  spec.classes = 1000;
  return spec;
}

DenseLayer::DenseLayer(Init& init, const DenseNetOptions& spec, std::int64_t in) : dropout_(init, spec.dropout) {
  const std::int64_t width = spec.bottleneck ? bottleneck_width * spec.growth_rate : spec.growth_rate;
  norm1_ = std::make_unique<BatchNorm2d>(init, in, norm_relu);
  conv1_ = std::make_unique<Conv2d>(init, in, width, same_size(spec.bottleneck ? 1 : 3));
  add_module("norm1", *norm1_);
  add_module("conv1", *conv1_);
  add_module("dropout", dropout_);
  if (!spec.bottleneck) return;
  norm2_ = std::make_unique<BatchNorm2d>(init, width, norm_relu);
  conv2_ = std::make_unique<Conv2d>(init, width, spec.growth_rate, same_size(3));
  add_module("norm2", *norm2_);
  add_module("conv2", *conv2_);
}

Tensor DenseLayer::operator()(Tensor x) {
  Tensor y = dropout_((*conv1_)((*norm1_)(std::move(x))));
  return conv2_ == nullptr ? y : dropout_((*conv2_)((*norm2_)(std::move(y))));
}

DenseBlock::DenseBlock(Init& init, const DenseNetOptions& spec, std::int64_t in, std::int64_t layers) {
  for (std::int64_t i = 0; i < layers; ++i) {
    layers_.push_back(std::make_unique<DenseLayer>(init, spec, in + i * spec.growth_rate));
    add_module(concat_text("layer", i + 1), *layers_.back());
  }
}

Tensor DenseBlock::forward(Tensor x) {
  std::vector<Tensor> features{std::move(x)};
  for (const auto& layer : layers_) features.push_back((*layer)(ops::concat(features)));
  return ops::concat(features);
}

Transition::Transition(Init& init, std::int64_t in, std::int64_t out, double dropout)
    : norm_(init, in, norm_relu), conv_(init, in, out, same_size(1)), dropout_(init, dropout) {
  add_module("norm", norm_);
  add_module("conv", conv_);
  add_module("dropout", dropout_);
}

Tensor Transition::forward(Tensor x) { return ops::avg_pool2d(dropout_(conv_(norm_(std::move(x)))), 2, 2); }

DenseNet::DenseNet(const DenseNetOptions& spec, Init init) {
  check(spec);
  std::int64_t channels = spec.stem_channels;
  Conv2dOptions stem = same_size(spec.imagenet_stem ? 7 : 3);
  if (spec.imagenet_stem) stem.stride = 2;
  conv0_ = std::make_unique<Conv2d>(init, spec.image_channels, channels, stem);
  add_module("conv0", *conv0_);
  if (spec.imagenet_stem) {
    norm0_ = std::make_unique<BatchNorm2d>(init, channels, norm_relu);
    add_module("norm0", *norm0_);
    stem_ = std::make_unique<ImageNetStem>(*conv0_, *norm0_, ops::Padding::all(1));
    add_module("stem", *stem_);
  }
  for (std::size_t b = 0; b < spec.layers.size(); ++b) {
    blocks_.push_back(std::make_unique<DenseBlock>(init, spec, channels, spec.layers[b]));
    add_module(concat_text("dense", b + 1), *blocks_.back());
    channels += spec.layers[b] * spec.growth_rate;
    if (b + 1 == spec.layers.size()) break;
    const auto passed = std::max<std::int64_t>(
        1, static_cast<std::int64_t>(std::floor(static_cast<double>(channels) * spec.compression)));
    transitions_.push_back(std::make_unique<Transition>(init, channels, passed, spec.dropout));
    add_module(concat_text("transition", b + 1), *transitions_.back());
    channels = passed;
  }
  norm_ = std::make_unique<BatchNorm2d>(init, channels, norm_relu);
  classifier_ = std::make_unique<Linear>(init, channels, spec.classes);
  add_module("norm", *norm_);
  add_module("classifier", *classifier_);
}

Tensor DenseNet::forward(Tensor images) {
  Tensor x = stem_ != nullptr ? (*stem_)(std::move(images)) : (*conv0_)(std::move(images));
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    x = (*blocks_[b])(std::move(x));
    if (b < transitions_.size()) x = (*transitions_[b])(std::move(x));
  }
  return (*classifier_)(ops::global_avg_pool((*norm_)(std::move(x))));
}

}  // namespace palimpsest::nn
