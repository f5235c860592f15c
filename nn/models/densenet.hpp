#pragma once

#include <memory>
#include <vector>

#include <palimpsest/nn/block.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/models/imagenet_stem.hpp>

namespace palimpsest::nn {

/// The plan of a DenseNet (Huang et al. 2017).
struct DenseNetOptions {
  std::vector<std::int64_t> layers = {16, 16, 16};  ///< layers of each dense block
  std::int64_t growth_rate = 12;                    ///< channels that a layer adds
  bool bottleneck = true;    ///< a 1x1 convolution to 4 * growth_rate channels before each 3x3 (the B of DenseNet-BC)
  double compression = 0.5;  ///< fraction of channels that a transition lets pass (the C of DenseNet-BC)
  std::int64_t stem_channels = 24;
  bool imagenet_stem = false;  ///< 7x7/2 convolution, BN, ReLU, 3x3/2 max-pool instead of a 3x3 convolution
  std::int64_t image_channels = 3;
  std::int64_t classes = 10;
  double dropout = 0;  ///< after every convolution but the first

  /// DenseNet-BC for CIFAR: three blocks of (depth - 4) / 6 layers, stem 2 * growth_rate, compression 0.5. Without
  /// `bottleneck` the original DenseNet: (depth - 4) / 3 layers, stem 16, no compression.
  /// Throws ValueError, naming the nearest depths that are possible, for any other depth.
  static DenseNetOptions cifar(std::int64_t depth, std::int64_t growth_rate, bool bottleneck = true);
  /// DenseNet-121, -169, -201 or -264 (growth 32), or -161 or -232 (growth 48), for 224x224 images and 1000 classes.
  /// `growth_rate` 0 means the usual one. Throws ValueError for any other depth.
  static DenseNetOptions imagenet(std::int64_t depth, std::int64_t growth_rate = 0);
};

/// BN-ReLU-conv1x1-BN-ReLU-conv3x3, or BN-ReLU-conv3x3 without bottleneck: the new features of a dense block's layer.
class DenseLayer : public Module {
 public:
  DenseLayer(Init& init, const DenseNetOptions& spec, std::int64_t in);
  /// (N, in, H, W) -> (N, growth_rate, H, W).
  Tensor operator()(Tensor x);

 private:
  std::unique_ptr<BatchNorm2d> norm1_, norm2_;  // norm2 and conv2 only with a bottleneck
  std::unique_ptr<Conv2d> conv1_, conv2_;
  Dropout dropout_;
};

/// Layers that each read the features of all before them. (N, in, H, W) -> (N, in + layers * growth_rate, H, W).
class DenseBlock : public Block<Tensor(Tensor)> {
 public:
  DenseBlock(Init& init, const DenseNetOptions& spec, std::int64_t in, std::int64_t layers);

 protected:
  Tensor forward(Tensor x) override;

 private:
  std::vector<std::unique_ptr<DenseLayer>> layers_;
};

/// BN-ReLU-conv1x1-2x2 average pooling between two dense blocks. (N, in, H, W) -> (N, out, H / 2, W / 2).
class Transition : public Block<Tensor(Tensor)> {
 public:
  Transition(Init& init, std::int64_t in, std::int64_t out, double dropout);

 protected:
  Tensor forward(Tensor x) override;

 private:
  BatchNorm2d norm_;
  Conv2d conv_;
  Dropout dropout_;
};

/// Densely connected network (Huang et al. 2017, "Densely Connected Convolutional Networks").
class DenseNet : public Classifier {
 public:
  DenseNet(const DenseNetOptions& spec, Init init);

 protected:
  Tensor forward(Tensor images) override;

 private:
  std::unique_ptr<Conv2d> conv0_;
  std::unique_ptr<BatchNorm2d> norm0_;  // this and stem_ only for ImageNet
  std::unique_ptr<ImageNetStem> stem_;
  std::vector<std::unique_ptr<DenseBlock>> blocks_;
  std::vector<std::unique_ptr<Transition>> transitions_;
  std::unique_ptr<BatchNorm2d> norm_;
  std::unique_ptr<Linear> classifier_;
};

}  // namespace palimpsest::nn
