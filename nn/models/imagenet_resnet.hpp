#pragma once

#include <memory>
#include <vector>

#include <palimpsest/nn/block.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/models/imagenet_stem.hpp>
#include <palimpsest/nn/models/residual.hpp>

namespace palimpsest::nn {

/// The plan of an ImageNetResNet.
struct ImageNetResNetOptions {
  std::vector<std::int64_t> units = {3, 4, 6, 3};           ///< units of each stage
  std::vector<std::int64_t> filters = {64, 128, 256, 512};  ///< inner channels of each stage; four times as many leave
  std::int64_t stem_channels = 64;
  std::int64_t image_channels = 3;
  std::int64_t classes = 1000;

  /// ResNet-50, -101 or -152, for 224x224 images and 1000 classes. Throws ValueError for any other depth.
  static ImageNetResNetOptions of_depth(std::int64_t depth);
};

/// y = ReLU(D(x) + F(x)), F being conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN through a quarter of the channels, the 3x3
/// convolution carrying the stride; D is the identity, or conv1x1-BN where the shape changes (He et al. 2015, "Deep
/// Residual Learning for Image Recognition", figure 5, with the stride where torchvision has it).
class BottleneckUnit : public Block<Tensor(Tensor)> {
 public:
  BottleneckUnit(Init& init, const UnitShape& shape);

 protected:
  Tensor forward(Tensor x) override;

 private:
  /// D where the shape changes.
  struct Projection : Module {
    Projection(Init& init, const UnitShape& shape);
    Conv2d conv;
    BatchNorm2d norm;
  };

  Conv2d conv1_;
  BatchNorm2d norm1_;
  Conv2d conv2_;
  BatchNorm2d norm2_;
  Conv2d conv3_;
  BatchNorm2d norm3_;
  std::unique_ptr<Projection> shortcut_;  // null: the identity
};

/// Residual network for ImageNet with the normalisation behind each convolution, as torchvision has it (ResNet is the
/// one with the normalisation before): conv7x7/2-BN-ReLU-3x3/2 max-pooling, stages with strides 1, 2, 2, 2, global
/// average pooling, linear.
class ImageNetResNet : public Classifier {
 public:
  /// Throws ValueError for a spec that makes no sense.
  ImageNetResNet(const ImageNetResNetOptions& spec, Init init);

 protected:
  Tensor forward(Tensor images) override;

 private:
  Conv2d conv0_;
  BatchNorm2d norm0_;
  ImageNetStem stem_;
  std::vector<std::unique_ptr<BottleneckUnit>> units_;
  std::unique_ptr<Linear> classifier_;
};

}  // namespace palimpsest::nn
