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

Tensor RevNetUnit::carry(const Shortcut& shortcut, Tensor x, const std::optional<ops::Grid>& grid) const {
  Tensor carried = shortcut(std::move(x));
  return grid && changes_shape_ ? ops::round_to_grid(std::move(carried), grid->bits) : carried;
}

Streams RevNetUnit::forward(Streams x) {
  std::optional<ops::Grid> grid = std::move(x.grid);
  if (!grid && grid_) grid = *grid_;
  Tensor f = f_(x.b);
  Tensor y1 = ops::couple(carry(shortcut1_, std::move(x.a), grid), std::move(f), grid);
  Tensor g = g_(y1);
  Tensor y2 = ops::couple(carry(shortcut2_, std::move(x.b), grid), std::move(g), grid);
  return {std::move(y1), std::move(y2)};
}

RevNet::RevNet(const ResidualOptions& spec, Init init)
    : ResidualNetwork(spec, init), stages_(spec.units.size()), stem_channels_(spec.stem_channels), grid_(spec.grid) {
  if (spec.chooses_grid && spec.grid) throw ValueError("RevNet: a grid that is given cannot be chosen");
  if (spec.chooses_grid) {
    chosen_ = ops::StageGrids::make(static_cast<std::int64_t>(spec.units.size()), init.dtype(), init.device());
    add_buffer("grid", chosen_->bits);
    add_buffer("grid_largest", chosen_->largest);
  }
  for (std::size_t s = 0; s < spec.units.size(); ++s) {
    for (std::int64_t u = 0; u < spec.units[s]; ++u) {
      const UnitShape shape = halved(unit_shape(spec, s, u));
      stages_[s].push_back(std::make_unique<RevNetUnit>(init, shape, spec.bottleneck, s > 0 || u > 0, spec.grid));
      add_module(concat_text("stage", s + 1, ".unit", u + 1), *stages_[s].back());
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

ResidualOptions RevNet::imagenet(std::int64_t depth) {
  if (depth != 56 && depth != 104) throw ValueError(concat_text("RevNet depth is ", depth, ", expected 56 or 104"));
  return {.units = {2, 2, depth == 56 ? 3 : 11, 2},
          .filters = {128, 256, 512, 832},
          .stem_channels = 128,
          .imagenet_stem = true,
          .bottleneck = true,
          .classes = 1000};
}

Tensor RevNet::forward(Tensor images) {
  Tensor x = stem(std::move(images));
  std::vector<ops::Grid> grids;
  if (chosen_) {
    ops::OnStageGrids rounded = ops::round_to_stage_grids(std::move(x), *chosen_, training());
    x = std::move(rounded.x);
    grids = std::move(rounded.grids);
  } else if (grid_) {
    x = ops::round_to_grid(std::move(x), *grid_);
  }
  const std::array<std::int64_t, 2> halves = {stem_channels_ / 2, stem_channels_ / 2};
  std::vector<Tensor> parts = ops::split(x, halves);
  x = {};
  Streams streams{std::move(parts[0]), std::move(parts[1])};
  for (std::size_t s = 0; s < stages_.size(); ++s) {
    for (const auto& unit : stages_[s]) {
      if (!grids.empty()) streams.grid = grids[s];
      streams = (*unit)(std::move(streams));
    }
  }
  return head(ops::concat(std::vector<Tensor>{std::move(streams.a), std::move(streams.b)}));
}

}  // namespace palimpsest::nn
