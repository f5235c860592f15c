// A tour of Palimpsest: a model of one's own, trained for a few steps under every memory policy.

#include <array>
#include <cstdio>
#include <list>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/datasets/loader.hpp>
#include <palimpsest/datasets/synthetic.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/pool.hpp>

using namespace palimpsest;

constexpr int grid = 16;  // streams are multiples of 2^-16, which makes reversing them exact

// A block is the unit that a memory policy acts on. Nothing in a model says which policy that will be.
struct Unit : nn::Block<nn::Streams(nn::Streams)> {
  explicit Unit(nn::Init& init) : f(init, {16, 16, 1}, false, true), g(init, {16, 16, 1}, false, true) {
    add_module("f", f);
    add_module("g", g);
  }

  nn::Streams forward(nn::Streams x) override {
    Tensor y1 = ops::couple(std::move(x.a), f(x.b), grid);  // y1 = x1 + F(x2): can be solved for x1
    Tensor y2 = ops::couple(std::move(x.b), g(y1), grid);
    return {y1, y2};
  }

  nn::Residual f, g;  // BN-ReLU-convolution, twice
};

struct Model : nn::Model<Tensor(Tensor)> {
  explicit Model(nn::Init init) : stem(init, 3, 32, {.padding = ops::Padding::all(1)}), head(init, 32, 10) {
    add_module("stem", stem);
    for (int i = 0; i < 8; ++i) add_module(concat_text("unit", i), units.emplace_back(init));
    add_module("head", head);
  }

  Tensor forward(Tensor images) override {
    auto halves = ops::split(ops::round_to_grid(stem(std::move(images)), grid), std::array<std::int64_t, 2>{16, 16});
    nn::Streams streams{std::move(halves[0]), std::move(halves[1])};
    for (Unit& unit : units) streams = unit(std::move(streams));
    return head(ops::global_avg_pool(ops::concat(std::vector{streams.a, streams.b})));
  }

  nn::Conv2d stem;
  std::list<Unit> units;
  nn::Linear head;
};

int main() {
  const datasets::ImageSet images = datasets::synthetic({.count = 160});
  for (const std::string_view policy : memory::names()) {
    Model model(nn::Init(/*seed=*/1));
    model.set_memory(memory::parse(policy).policy());  // the whole switch
    nn::Sgd sgd(model.parameters(), {.learning_rate = 0.1, .momentum = 0.9});
    datasets::Loader loader(images, {.batch_size = 16, .normalisation = datasets::measure_channels(images)});
    allocator(Device::Cpu).reset_peak();
    Tensor loss;
    loader.start_epoch(0);
    while (const auto batch = loader.next()) {
      sgd.zero_grad();
      const Tensor logits = model(Tensor::from_layout(batch->shape, batch->images, Device::Cpu, Tag::Data));
      loss = ops::cross_entropy(logits, Tensor::from_layout({batch->size}, batch->labels));
      loss.backward();
      sgd.step();
    }
    std::printf("%-11s loss %.6f, peak %s, state %.8s\n", std::string(policy).c_str(), loss.item(),
                format_mebibytes(allocator(Device::Cpu).stats().peak).c_str(), model.state_digest().c_str());
  }
}
