#include <palimpsest/nn/models/imagenet_resnet.hpp>

#include <palimpsest/nn/models/stages.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/pool.hpp>

namespace palimpsest::nn {
namespace {

constexpr std::int64_t expansion = 4;  // channels that leave a unit for each inner one
constexpr BatchNormOptions norm_relu = {.relu = true};

Conv2dOptions conv_options(std::int64_t kernel, std::int64_t stride = 1) {
  return {.kernel = kernel, .stride = stride, .padding = ops::Padding::all(kernel / 2)};
}

const ImageNetResNetOptions& checked(const ImageNetResNetOptions& spec) {
  check_stages("ImageNetResNet", spec);
  return spec;
}

}  // namespace

ImageNetResNetOptions ImageNetResNetOptions::of_depth(std::int64_t depth) {
  switch (depth) {
    case 50:
      return {.units = {3, 4, 6, 3}};
    case 101:
      return {.units = {3, 4, 23, 3}};
    case 152:
      return {.units = {3, 8, 36, 3}};
    default:
      throw ValueError(concat_text("ImageNetResNet depth is ", depth, ", expected 50, 101 or 152"));
  }
}

BottleneckUnit::Projection::Projection(Init& init, const UnitShape& shape)
    : conv(init, shape.in, shape.out, conv_options(1, shape.stride)), norm(init, shape.out) {
  add_module("conv", conv);
  add_module("norm", norm);
}

BottleneckUnit::BottleneckUnit(Init& init, const UnitShape& shape)
    : conv1_(init, shape.in, shape.out / expansion, conv_options(1)),
      norm1_(init, shape.out / expansion, norm_relu),
      conv2_(init, shape.out / expansion, shape.out / expansion, conv_options(3, shape.stride)),
      norm2_(init, shape.out / expansion, norm_relu),
      conv3_(init, shape.out / expansion, shape.out, conv_options(1)),
      norm3_(init, shape.out) {
  add_module("conv1", conv1_);
  add_module("norm1", norm1_);
  add_module("conv2", conv2_);
  add_module("norm2", norm2_);
  add_module("conv3", conv3_);
  add_module("norm3", norm3_);
  if (!shape.changes()) return;
  shortcut_ = std::make_unique<Projection>(init, shape);
  add_module("shortcut", *shortcut_);
}

Tensor BottleneckUnit::forward(Tensor x) {
  Tensor y = norm3_(conv3_(norm2_(conv2_(norm1_(conv1_(x))))));
  if (shortcut_ != nullptr) x = shortcut_->norm(shortcut_->conv(std::move(x)));
  return ops::relu(ops::add(x, std::move(y)));
}

ImageNetResNet::ImageNetResNet(const ImageNetResNetOptions& spec, Init init)
    : conv0_(init, checked(spec).image_channels, spec.stem_channels, conv_options(7, 2)),
      norm0_(init, spec.stem_channels, norm_relu),
      stem_(conv0_, norm0_, ops::Padding::all(1)) {
  add_module("conv0", conv0_);
  add_module("norm0", norm0_);
  add_module("stem", stem_);
  std::int64_t channels = spec.stem_channels;
  for (std::size_t s = 0; s < spec.units.size(); ++s) {
    for (std::int64_t u = 0; u < spec.units[s]; ++u) {
      const UnitShape shape = {channels, expansion * spec.filters[s], s > 0 && u == 0 ? 2 : 1};
      units_.push_back(std::make_unique<BottleneckUnit>(init, shape));
      add_module(concat_text("stage", s + 1, ".unit", u + 1), *units_.back());
      channels = shape.out;
    }
  }
  classifier_ = std::make_unique<Linear>(init, channels, spec.classes);
  add_module("classifier", *classifier_);
}

Tensor ImageNetResNet::forward(Tensor images) {
  Tensor x = stem_(std::move(images));
  for (const auto& unit : units_) x = (*unit)(std::move(x));
  return (*classifier_)(ops::global_avg_pool(x));
}

}  // namespace palimpsest::nn
