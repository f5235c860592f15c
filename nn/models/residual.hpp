#pragma once

#include <memory>
#include <optional>

#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/models/imagenet_stem.hpp>

namespace palimpsest::nn {

/// The plan of a residual network with the normalisation before each convolution (Gomez et al. 2017, section 4; He et
/// al. 2016), ResNet or RevNet.
struct ResidualOptions {
  std::vector<std::int64_t> units = {};    ///< units of each stage
  std::vector<std::int64_t> filters = {};  ///< channels of each stage, before the factor 4 of a bottleneck
  std::int64_t stem_channels = 16;
  bool imagenet_stem = false;  ///< 7x7/2 convolution, BN, ReLU, 3x3/2 max-pool instead of a 3x3 convolution, BN, ReLU
  bool bottleneck = false;
  std::int64_t image_channels = 3;
  std::int64_t classes = 10;
  /// Fractional bits of the grid on which reversal is exact (see ops::couple); none: plain sums. RevNet only.
  std::optional<int> grid = std::nullopt;
  /// Every stage has a grid of its own, chosen from the magnitude of its streams (see ops::StageGrids). RevNet only,
  /// and without `grid`.
  bool chooses_grid = false;

  /// Channels that leave stage `s`.
  std::int64_t stage_channels(std::size_t s) const { return filters[s] * (bottleneck ? 4 : 1); }
};

/// How a residual unit changes the shape of its input.
struct UnitShape {
  std::int64_t in;
  std::int64_t out;
  std::int64_t stride;

  bool changes() const { return in != out || stride != 1; }
};

/// A residual function: BN-ReLU-conv3x3-BN-ReLU-conv3x3, or with a bottleneck
/// BN-ReLU-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1 through a quarter of the channels. The first convolution carries the
/// stride. `activate_first` false leaves the first BN-ReLU out.
class Residual : public Module {
 public:
  Residual(Init& init, const UnitShape& shape, bool bottleneck, bool activate_first);
  /// (N, in, H, W) -> (N, out, H / stride, W / stride).
  Tensor operator()(Tensor x) const;

 private:
  struct Stage {
    std::unique_ptr<BatchNorm2d> norm;
    std::unique_ptr<Conv2d> conv;
  };
  std::vector<Stage> stages_;
};

/// The shortcut D of a unit: the identity; where the shape changes, a 1x1 convolution in a bottleneck unit, and
/// otherwise average pooling for the stride and then zero channels on both sides (He et al. 2016, option A).
class Shortcut : public Module {
 public:
  /// Throws ValueError for fewer channels than before, unless in a bottleneck unit.
  Shortcut(Init& init, const UnitShape& shape, bool bottleneck);
  /// (N, in, H, W) -> (N, out, H / stride, W / stride).
  Tensor operator()(Tensor x) const;

 private:
  UnitShape shape_;
  std::unique_ptr<Conv2d> project_;
};

/// Units of each of three stages in a CIFAR network of this depth: (depth - 2) / layers, `layers` being the weight
/// layers of three units. Throws ValueError, naming the nearest depths that are possible, if that is no whole positive
/// number.
std::int64_t cifar_units(std::int64_t depth, std::int64_t layers, std::string_view model);

/// The common part of ResNet and RevNet: conv3x3-BN-ReLU, or ImageNet's stem, before the stages; BN-ReLU-global average
/// pooling-linear after them. Images are padded as by TensorFlow's SAME, that of even sides where there is a stride: a
/// pixel more at the bottom and the right than at the top and the left.
class ResidualNetwork : public Classifier {
 protected:
  /// Throws ValueError for a spec that makes no sense.
  ResidualNetwork(const ResidualOptions& spec, Init& init);
  /// Registered after the stages, so that the order of parameters is that of the computation.
  void add_head(const ResidualOptions& spec, Init& init);

  Tensor stem(Tensor images);
  Tensor head(Tensor x) const;

  /// The shape change of unit `u` of stage `s`, for the whole width.
  static UnitShape unit_shape(const ResidualOptions& spec, std::size_t s, std::int64_t u);

 private:
  Conv2d conv0_;
  BatchNorm2d norm0_;
  std::unique_ptr<ImageNetStem> pooled_stem_;  // null for CIFAR
  std::unique_ptr<BatchNorm2d> norm_;
  std::unique_ptr<Linear> classifier_;
};

}  // namespace palimpsest::nn
