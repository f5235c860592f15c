#pragma once

// A task that is no classifier of images: rows of numbers, a linear loss, an optimiser of its own, data that the
// program makes.

#include <memory>
#include <utility>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/nn/block.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/train/task.hpp>

namespace palimpsest::test {

inline constexpr std::int64_t width = 24;

/// Two layers in a block, which policies act on.
class Hidden : public nn::Block<Tensor(Tensor)> {
 public:
  explicit Hidden(nn::Init& init) : first_(init, width, 4 * width), second_(init, 4 * width, 1) {
    add_module("first", first_);
    add_module("second", second_);
  }

 protected:
  Tensor forward(Tensor x) override { return second_(ops::relu(first_(x))); }

 private:
  nn::Linear first_;
  nn::Linear second_;
};

class Net : public nn::Module {
 public:
  explicit Net(nn::Init init) : hidden_(init) { add_module("hidden", hidden_); }
  Tensor operator()(const Tensor& x) { return hidden_(x); }

 private:
  Hidden hidden_;
};

/// Descent that the library does not have: it updates in every second step.
class EverySecond : public nn::Optimiser {
 public:
  explicit EverySecond(std::vector<nn::NamedTensor> parameters) : sgd_(std::move(parameters), {.momentum = 0}) {}
  void zero_grad() override { sgd_.zero_grad(); }
  void step() override {
    if (++steps_ % 2 == 0) sgd_.step();
  }
  double learning_rate() const override { return sgd_.learning_rate(); }
  void set_learning_rate(double rate) override { sgd_.set_learning_rate(rate); }
  std::vector<nn::NamedTensor> state() const override { return sgd_.state(); }

 private:
  nn::Sgd sgd_;
  int steps_ = 0;
};

inline std::vector<Tensor> rows(std::int64_t epoch, std::int64_t first, std::int64_t count, Device device) {
  Random random(static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(first));
  std::vector<float> values(static_cast<std::size_t>(count * width));
  for (float& value : values) value = static_cast<float>(random.normal());
  return {
      Tensor::from_vector({count, width}, values, device, Tag::Data),
      Tensor::from_vector({count, 1}, std::vector<float>(static_cast<std::size_t>(count), 1.0F), device, Tag::Data)};
}

/// 20 rows to train on and 10 to evaluate with.
inline train::Task row_task() {
  return {.name = "Net",
          .make_model = [](nn::Init init) { return std::make_unique<Net>(std::move(init)); },
          .batch = [](std::int64_t samples) -> std::vector<TensorSpec> {
            return {{{samples, width}}, {{samples, 1}}};
          },
          .loss = train::with_model<Net>(
              [](Net& net, std::span<const Tensor> batch) { return weighted_sum(net(batch[0]), batch[1]); }),
          .make_optimiser = [](auto parameters) { return std::make_unique<EverySecond>(std::move(parameters)); },
          .schedule = [](std::int64_t) { return nn::Schedule::constant(1e-3); },
          .training = train::made_data("rows", 20, rows),
          .evaluation = train::made_data("rows", 10, rows),
          .score = train::with_model<Net>([](Net& net, std::span<const Tensor> batch) {
            const Tensor sum = weighted_sum(net(batch[0]), batch[1]);
            return train::Score{is_meta(sum.device()) ? 0 : sum.item(), batch[1].shape().count()};
          }),
          .metric = "mean",
          .metric_is_share = false,
          .unit = "rows"};
}

}  // namespace palimpsest::test
