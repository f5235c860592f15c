#include <palimpsest/nn/models/resnet.hpp>

#include <palimpsest/ops/add.hpp>

namespace palimpsest::nn {

ResNetUnit::ResNetUnit(Init& init, const UnitShape& shape, bool bottleneck, bool activate_first)
    : f_(init, shape, bottleneck, activate_first), shortcut_(init, shape, bottleneck) {
  add_module("f", f_);
  add_module("shortcut", shortcut_);
}

Tensor ResNetUnit::forward(Tensor x) {
  Tensor y = f_(x);
  return ops::add(shortcut_(std::move(x)), std::move(y));
}

ResNet::ResNet(const ResidualOptions& spec, Init init) : ResidualNetwork(spec, init) {
  for (std::size_t s = 0; s < spec.units.size(); ++s) {
    for (std::int64_t u = 0; u < spec.units[s]; ++u) {
      units_.push_back(std::make_unique<ResNetUnit>(init, unit_shape(spec, s, u), spec.bottleneck, s > 0 || u > 0));
      add_module(concat_text("stage", s + 1, ".unit", u + 1), *units_.back());
    }
  }
  add_head(spec, init);
}

ResidualOptions ResNet::cifar(std::int64_t depth, bool bottleneck) {
  ResidualOptions spec;
  const std::int64_t units = cifar_units(depth, bottleneck ? 9 : 6, "ResNet");
  spec.units = {units, units, units};
  spec.filters = {16, 32, 64};
  spec.bottleneck = bottleneck;
  return spec;
}

ResidualOptions ResNet::imagenet(std::int64_t depth) {
  if (depth != 50 && depth != 101) throw ValueError(concat_text("ResNet depth is ", depth, ", expected 50 or 101"));
  return {.units = {3, 4, depth == 50 ? 6 : 23, 3},
          .filters = {64, 128, 256, 512},
          .stem_channels = 64,
          .imagenet_stem = true,
          .bottleneck = true,
          .classes = 1000};
}

Tensor ResNet::forward(Tensor images) {
  Tensor x = stem(std::move(images));
  for (const auto& unit : units_) x = (*unit)(std::move(x));
  return head(std::move(x));
}

}  // namespace palimpsest::nn
