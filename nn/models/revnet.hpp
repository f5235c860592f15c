#pragma once

#include <palimpsest/nn/block.hpp>
#include <palimpsest/nn/models/residual.hpp>
#include <palimpsest/ops/stage_grids.hpp>

namespace palimpsest::nn {

/// The two streams of a reversible network, half of the channels each.
struct Streams {
  Tensor a;
  Tensor b;
  std::optional<ops::Grid> grid = std::nullopt;  ///< that a unit is to work on, if not on its own
};

inline std::vector<Tensor> tensors_of(const Streams& streams) { return {streams.a, streams.b}; }

/// y1 = D(x1) + F(x2), y2 = D(x2) + G(y1) (Gomez et al. 2017, equation 6).
class RevNetUnit : public Block<Streams(Streams)> {
 public:
  /// `shape` counts the channels of one stream.
  RevNetUnit(Init& init, const UnitShape& shape, bool bottleneck, bool activate_first, std::optional<int> grid);

 protected:
  Streams forward(Streams x) override;

 private:
  /// D, put back on the grid where pooling or a projection has left it.
  Tensor carry(const Shortcut& shortcut, Tensor x, const std::optional<ops::Grid>& grid) const;

  Residual f_, g_;
  Shortcut shortcut1_, shortcut2_;
  bool changes_shape_;
  std::optional<int> grid_;
};

/// Reversible residual network (Gomez et al. 2017). With a grid (ResidualOptions::grid) the streams enter
/// every stage as multiples of 2^-grid and reversal is exact. A grid that is chosen (ResidualOptions::chooses_grid) is
/// in the buffers "grid" and "grid_largest" (ops::StageGrids).
class RevNet : public ResidualNetwork {
 public:
  /// Throws ValueError as ResNet does, and unless every number of channels can be halved.
  RevNet(const ResidualOptions& spec, Init init);

  /// RevNet-38 (filters 32, 64, 112), -110 (32, 64, 128) or -164 (the same, bottleneck) and others of their kind: three
  /// stages of (depth - 2) / 12 units (or / 18). Throws ValueError, naming depths that are possible, for any other
  /// depth.
  static ResidualOptions cifar(std::int64_t depth, bool bottleneck = false);
  /// RevNet-56 or -104, for 224x224 images and 1000 classes. Throws ValueError for any other depth.
  static ResidualOptions imagenet(std::int64_t depth);

 protected:
  Tensor forward(Tensor images) override;

 private:
  std::vector<std::vector<std::unique_ptr<RevNetUnit>>> stages_;
  std::int64_t stem_channels_;
  std::optional<int> grid_;
  std::optional<ops::StageGrids> chosen_;
};

}  // namespace palimpsest::nn
