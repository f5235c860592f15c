#pragma once

// Plain networks of convolution, bias and ReLU, in blocks, with what people put between them.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/pool.hpp>

namespace palimpsest::test {

/// The place of a batch normalisation in a layer; with one in front, the ReLU is between it and the convolution.
enum class Norm { None, Before, After };

struct PlainNetOptions {
  int blocks = 1;
  int layers = 2;  ///< of a block
  double dropout = 0;
  Norm norm = Norm::None;
  bool residual = false;  ///< a layer's input is added to its result
  bool pool = false;      ///< each block ends in a pooling
  std::int64_t channels = 16;

  std::string name() const {
    std::string text = std::to_string(blocks) + " blocks of " + std::to_string(layers);
    if (norm != Norm::None) text += norm == Norm::Before ? ", norm before" : ", norm after";
    if (dropout > 0) text += ", dropout";
    if (residual) text += ", residual";
    if (pool) text += ", pool";
    return text;
  }
};

class PlainLayer : public nn::Module {
 public:
  PlainLayer(nn::Init& init, const PlainNetOptions& spec, std::int64_t in)
      : spec_(spec),
        conv_(init, in, spec.channels, {.kernel = 3, .padding = ops::Padding::all(1), .bias = spec.norm == Norm::None}),
        norm_(init, spec.norm == Norm::Before ? in : spec.channels),
        dropout_(init, spec.dropout) {
    add_module("conv", conv_);
    add_module("norm", norm_);
    add_module("dropout", dropout_);
  }

  Tensor operator()(Tensor x) const {
    Tensor carried = spec_.residual && x.shape()[1] == spec_.channels ? x : Tensor();
    if (spec_.norm == Norm::Before) x = ops::relu(norm_(std::move(x)));
    x = conv_(std::move(x));
    if (spec_.norm == Norm::After) x = norm_(std::move(x));
    if (carried) x = ops::add(std::move(carried), std::move(x));
    if (spec_.norm != Norm::Before) x = ops::relu(std::move(x));
    return dropout_(std::move(x));
  }

 private:
  PlainNetOptions spec_;
  nn::Conv2d conv_;
  nn::BatchNorm2d norm_;
  nn::Dropout dropout_;
};

class PlainBlock : public nn::Block<Tensor(Tensor)> {
 public:
  PlainBlock(nn::Init& init, const PlainNetOptions& spec, std::int64_t in) : pool_(spec.pool) {
    for (int i = 0; i < spec.layers; ++i) {
      layers_.push_back(std::make_unique<PlainLayer>(init, spec, i == 0 ? in : spec.channels));
      add_module("layer" + std::to_string(i + 1), *layers_.back());
    }
  }

 protected:
  Tensor forward(Tensor x) override {
    for (const auto& layer : layers_) x = (*layer)(std::move(x));
    return pool_ ? ops::max_pool2d(x, 2, 2) : x;
  }

 private:
  std::vector<std::unique_ptr<PlainLayer>> layers_;
  bool pool_;
};

class PlainNet : public nn::Classifier {
 public:
  PlainNet(const PlainNetOptions& spec, nn::Init init) : head_(init, spec.channels, 10) {
    for (int i = 0; i < spec.blocks; ++i) {
      blocks_.push_back(std::make_unique<PlainBlock>(init, spec, i == 0 ? 3 : spec.channels));
      add_module("block" + std::to_string(i + 1), *blocks_.back());
    }
    add_module("head", head_);
  }

 protected:
  Tensor forward(Tensor x) override {
    for (const auto& block : blocks_) x = (*block)(std::move(x));
    return head_(ops::global_avg_pool(x));
  }

 private:
  std::vector<std::unique_ptr<PlainBlock>> blocks_;
  nn::Linear head_;
};

/// Bytes at the peak of the second step under a policy, and forward runs of heavy ops that restoring has cost.
struct StepCost {
  std::size_t peak = 0;
  std::size_t heavy_replays = 0;
};

/// A step of SGD of a classifier of (batch, 3, side, side) images, on a device.
template <class Model, class Spec>
StepCost cost_of(const Spec& spec, const PolicyPtr& policy, Device device, std::int64_t batch, std::int64_t side) {
  Model model(spec, nn::Init(5, device));
  model.set_memory(policy);
  nn::Sgd sgd(model.parameters(), {.learning_rate = 0.01, .momentum = 0.9});
  const Tensor images = Tensor::zeros({batch, 3, side, side}, Dtype::Float32, device, Tag::Data);
  const Tensor labels = Tensor::zeros({batch}, Dtype::Int32, device, Tag::Data);
  StepCost cost;
  for (int step = 0; step < 2; ++step) {
    allocator(device).reset_peak();
    sgd.zero_grad();
    const Tensor loss = ops::cross_entropy(model(images), labels);
    loss.backward();
    sgd.step();
    cost = {allocator(device).stats().peak, loss.handle()->tape->heavy_replays()};
  }
  return cost;
}

}  // namespace palimpsest::test
