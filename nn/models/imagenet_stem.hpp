#pragma once

#include <palimpsest/nn/block.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/ops/padding.hpp>

namespace palimpsest::nn {

/// The beginning of a network for ImageNet as a unit of memory policy: convolution-BN-ReLU-3x3/2 max pooling. The
/// layers are its model's, which has them under names of their own and lives longer; the block has no name in those.
class ImageNetStem : public Block<Tensor(Tensor)> {
 public:
  ImageNetStem(const Conv2d& conv, const BatchNorm2d& norm, const ops::Padding& pooling)
      : conv_(conv), norm_(norm), pooling_(pooling) {}

 protected:
  Tensor forward(Tensor images) override;

 private:
  const Conv2d& conv_;
  const BatchNorm2d& norm_;
  ops::Padding pooling_;
};

}  // namespace palimpsest::nn
