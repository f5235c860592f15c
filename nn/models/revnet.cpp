#include <palimpsest/nn/models/revnet.hpp>

#include <array>

#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/couple.hpp>

namespace palimpsest::nn {
namespace {

UnitShape halved(UnitShape shape) {
  if (shape.in % 2 != 0 || shape.out % 2 != 0) {
    throw ValueError(
        concat_text("RevNet: ", shape.in, " and ", shape.out, " channels, expected even numbers: a stream is half"));
  }
  return {shape.in / 2, shape.out / 2, shape.stride};
}

}  // namespace

RevNetUnit::RevNetUnit(Init& init, const UnitShape& shape, bool bottleneck, bool activate_first,
                       std::optional<int> grid)
    : f_(init, shape, bottleneck, activate_first),
      g_(init, {shape.out, shape.out, 1}, bottleneck, true),
      shortcut1_(init, shape, bottleneck),
      shortcut2_(init, shape, bottleneck),
      changes_shape_(shape.changes()),
      grid_(grid) {
  add_module("f", f_);
  add_module("g", g_);
  add_module("shortcut1", shortcut1_);
  add_module("shortcut2", shortcut2_);
}

Tensor RevNetUnit::carry(const Shortcut& shortcut, Tensor x) const {
  Tensor carried = shortcut(std::move(x));
  return grid_ && changes_shape_ ? ops::round_to_grid(std::move(carried), *grid_) : carried;
}

Streams RevNetUnit::forward(Streams x) {
  Tensor f = f_(x.b);
  Tensor y1 = ops::couple(carry(shortcut1_, std::move(x.a)), std::move(f), grid_);
  Tensor g = g_(y1);
  Tensor y2 = ops::couple(carry(shortcut2_, std::move(x.b)), std::move(g), grid_);
  return {std::move(y1), std::move(y2)};
}

RevNet::RevNet(const ResidualOptions& spec, Init init)
    : ResidualNetwork(spec, init), stem_channels_(spec.stem_channels), grid_(spec.grid) {
  for (std::size_t s = 0; s < spec.units.size(); ++s) {
    for (std::int64_t u = 0; u < spec.units[s]; ++u) {
      const UnitShape shape = halved(unit_shape(spec, s, u));
      units_.push_back(std::make_unique<RevNetUnit>(init, shape, spec.bottleneck, s > 0 || u > 0, spec.grid));
      add_module(concat_text("stage", s + 1, ".unit", u + 1), *units_.back());
    }
  }
  add_head(spec, init);
}

ResidualOptions RevNet::cifar(std::int64_t depth, bool bottleneck) {
  ResidualOptions spec;
  const std::int64_t units = cifar_units(depth, bottleneck ? 18 : 12, "RevNet");
  spec.units = {units, units, units};
  spec.stem_channels = 32;
  // Gomez et al. 2017, table 1, narrow the last stage of RevNet-38 to match ResNet-32's number of parameters.
  spec.filters = {32, 64, depth == 38 && !bottleneck ? 112 : 128};
  spec.bottleneck = bottleneck;
  return spec;
}

Tensor RevNet::forward(Tensor images) {
  Tensor x = stem(std::move(images));
  if (grid_) x = ops::round_to_grid(std::move(x), *grid_);
  const std::array<std::int64_t, 2> halves = {stem_channels_ / 2, stem_channels_ / 2};
  std::vector<Tensor> parts = ops::split(x, halves);
  x = {};
  Streams streams{std::move(parts[0]), std::move(parts[1])};
  for (const auto& unit : units_) streams = (*unit)(std::move(streams));
  return head(ops::concat(std::vector<Tensor>{std::move(streams.a), std::move(streams.b)}));
}

}  // namespace palimpsest::nn
