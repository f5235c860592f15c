#pragma once

#include <palimpsest/nn/block.hpp>
#include <palimpsest/nn/models/residual.hpp>

namespace palimpsest::nn {

/// y = D(x) + F(x) (He et al. 2016, "Identity Mappings in Deep Residual Networks").
class ResNetUnit : public Block<Tensor(Tensor)> {
 public:
  ResNetUnit(Init& init, const UnitShape& shape, bool bottleneck, bool activate_first);

 protected:
  Tensor forward(Tensor x) override;

 private:
  Residual f_;
  Shortcut shortcut_;
};

/// Residual network with the normalisation before each convolution, the one that Gomez et al. 2017 compare with.
class ResNet : public ResidualNetwork {
 public:
  /// Throws ValueError for a spec that makes no sense, and for stages that narrow without bottlenecks.
  ResNet(const ResidualOptions& spec, Init init);

  /// ResNet-32, -110 (basic) or -164 (bottleneck) and others of their kind: three stages of (depth - 2) / 6 units (or
  /// / 9), filters 16, 32, 64. Throws ValueError, naming depths that are possible, for any other depth.
  static ResidualOptions cifar(std::int64_t depth, bool bottleneck = false);
  /// ResNet-50 or -101, for 224x224 images and 1000 classes. Throws ValueError for any other depth.
  static ResidualOptions imagenet(std::int64_t depth);

 protected:
  Tensor forward(Tensor images) override;

 private:
  std::vector<std::unique_ptr<ResNetUnit>> units_;
};

}  // namespace palimpsest::nn
