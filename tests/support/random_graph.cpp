#include "tests/support/random_graph.hpp"

#include <algorithm>
#include <array>

#include <palimpsest/memory/recipes.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/user_policy.hpp"

namespace palimpsest::test {
namespace {

constexpr int grid = 10;
constexpr std::int64_t batch = 2;

bool same_pixels(const Tensor& a, const Tensor& b) { return a.shape().with_channels(1) == b.shape().with_channels(1); }

}  // namespace

/// One pass over the instructions. All choices come from the seed and from shapes, so every pass makes the same ones.
class Builder {
 public:
  Builder(RandomGraph& graph, const PolicyOfBlock& policies)
      : graph_(graph), policies_(policies), random_(graph.seed_) {}

  Tensor loss() {
    Pool pool;
    pool.push_back({parameter({batch, 3, 6, 6}), false});  // the images, which want a gradient, too
    run(pool, 6 + below(14), 0);
    return head(pool);
  }

 private:
  struct Item {
    Tensor tensor;
    bool on_grid;
  };
  using Pool = std::vector<Item>;

  std::size_t below(std::size_t bound) { return static_cast<std::size_t>(random_.below(bound)); }
  bool one_in(std::size_t n) { return below(n) == 0; }

  Tensor parameter(const Shape& shape) {
    if (parameters_ == graph_.parameters_.size()) {
      graph_.parameters_.push_back(random_parameter(shape, graph_.seed_ * 1000 + parameters_));
    }
    return graph_.parameters_[parameters_++];
  }

  const ops::RunningStatistics& statistics(std::int64_t channels) {
    if (statistics_ == graph_.statistics_.size()) {
      graph_.statistics_.push_back({random_tensor({channels}, 1, Tag::Parameter), zeros({channels})});
    }
    return graph_.statistics_[statistics_++];
  }

  /// A copy of an item's tensor, or the tensor itself, which then leaves the pool.
  Tensor take(Pool& pool, std::size_t i) {
    if (pool.size() < 2 || !one_in(3)) return pool[i].tensor;
    Tensor tensor = std::move(pool[i].tensor);
    pool.erase(pool.begin() + static_cast<std::ptrdiff_t>(i));
    return tensor;
  }
  Tensor take_any(Pool& pool) { return take(pool, below(pool.size())); }

  Tensor like(Pool& pool, const Tensor& tensor) {
    std::vector<Tensor> found;
    for (const Item& item : pool) {
      if (item.tensor.shape() == tensor.shape()) found.push_back(item.tensor);
    }
    return found.empty() ? tensor : found[below(found.size())];
  }

  Tensor conv(Tensor x, std::int64_t out) {
    const std::int64_t kernel = one_in(2) ? 1 : 3;
    const Tensor weight = parameter({out, x.shape().c(), kernel, kernel});
    return ops::conv2d(std::move(x), weight, {.padding = ops::Padding::all(kernel / 2)});
  }

  Tensor norm(Tensor x) { return norm(std::move(x), one_in(2)); }
  Tensor norm(Tensor x, bool relu) {
    const std::int64_t channels = x.shape().c();
    const Tensor gamma = parameter({channels});
    const Tensor beta = parameter({channels});
    return ops::batch_norm(std::move(x), gamma, beta, statistics(channels), {.relu = relu});
  }

  /// Another tensor of x's shape, made in one of the ways in which a coupling's branch may be made.
  Tensor branch(Pool& pool, const Tensor& x) {
    const std::int64_t channels = x.shape().c();
    const auto partner = [&] {
      for (const Item& item : pool) {
        if (same_pixels(item.tensor, x)) return item.tensor;
      }
      return x;
    };
    switch (below(4)) {
      case 0:
        return like(pool, x);
      case 1:
        return conv(x, channels);  // of the stream itself: cannot be undone
      case 2:
        return conv(partner(), channels);
      default:
        return conv(norm(conv(norm(partner()), 3)), channels);
    }
  }

  void couple(Pool& pool) {
    const std::size_t i = below(pool.size());
    const bool on_grid = pool[i].on_grid;
    Tensor x = take(pool, i);
    if (!on_grid) x = ops::round_to_grid(norm(std::move(x)), grid);
    Tensor f = norm(branch(pool, x));
    if (one_in(3)) pool.push_back({x, true});  // used again after the coupling has consumed it
    if (one_in(3)) pool.push_back({f, false});
    pool.push_back({ops::couple(std::move(x), std::move(f), grid), true});
  }

  void concat(Pool& pool) {
    const Tensor first = take_any(pool);
    std::vector<Tensor> parts{first};
    for (const Item& item : pool) {
      if (parts.size() < 3 && same_pixels(item.tensor, first) && one_in(2)) parts.push_back(item.tensor);
    }
    if (parts.size() == 1) parts.push_back(first);
    Tensor joined = ops::concat(parts);
    if (joined.shape().c() > 12) joined = conv(std::move(joined), 3);
    pool.push_back({std::move(joined), false});
  }

  /// Layers as in a dense block, each of which reads what those before it made. A normalised input is the convolution's
  /// alone, which then takes it over, or somebody else holds it, too, and perhaps reads it before or afterwards.
  void dense_layers(Pool& pool) {
    std::vector<Tensor> features{take_any(pool)};
    for (const Item& item : pool) {
      const bool fits = same_pixels(item.tensor, features[0]) && item.tensor.shape().c() < 8;
      if (features.size() < 3 && fits && one_in(2)) features.push_back(item.tensor);
    }
    for (std::size_t layers = 1 + below(3); layers > 0; --layers) {
      std::vector<Tensor> parts = features;
      if (one_in(4)) parts.push_back(features[below(features.size())]);
      Tensor y = norm(ops::concat(parts), true);
      const std::size_t held = below(5);
      const Tensor beside = held < 2 ? y : Tensor();
      Tensor z = conv(std::move(y), static_cast<std::int64_t>(1 + below(4)));
      if (held == 0) pool.push_back({beside, false});
      if (held == 1 && !graph_.watch_) graph_.kept_.push_back({beside, bits_of(beside)});
      features.push_back(std::move(z));
      if (one_in(4)) features.erase(features.begin());
    }
    pool.push_back({features.back(), false});
  }

  void split(Pool& pool) {
    const std::size_t i = below(pool.size());
    const bool on_grid = pool[i].on_grid;
    const Tensor x = take(pool, i);
    const std::int64_t channels = x.shape().c();
    if (channels < 2) return pool.push_back({x, on_grid});
    const auto first = static_cast<std::int64_t>(1 + below(static_cast<std::size_t>(channels - 1)));
    const std::array<std::int64_t, 2> sizes = {first, channels - first};
    const std::vector<Tensor> parts = ops::split(x, sizes);
    const std::size_t unused = below(3);
    for (std::size_t p = 0; p < 2; ++p) {
      if (p != unused) pool.push_back({parts[p], on_grid});
    }
  }

  void pool_pixels(Pool& pool) {
    const Tensor x = take_any(pool);
    const bool small = x.shape().h() < 2;
    pool.push_back(
        {small || one_in(2) ? ops::max_pool2d(x, 3, 1, ops::Padding::all(1)) : ops::avg_pool2d(x, 2, 2), false});
  }

  void block(Pool& pool, int depth) {
    std::vector<Tensor> inputs;
    std::vector<bool> on_grid;
    for (std::size_t n = 1 + below(2); n > 0; --n) {
      const std::size_t i = below(pool.size());
      on_grid.push_back(pool[i].on_grid);
      inputs.push_back(take(pool, i));
    }
    std::vector<bool> outputs_on_grid;
    AnyBlock body(policies_(blocks_++), [&](std::vector<Tensor> entered) {
      Pool inner;
      for (std::size_t i = 0; i < entered.size(); ++i) inner.push_back({std::move(entered[i]), on_grid[i]});
      entered.clear();
      run(inner, 2 + below(7), depth + 1);
      while (inner.size() > 3) inner.erase(inner.begin() + static_cast<std::ptrdiff_t>(below(inner.size())));
      std::vector<Tensor> outputs;
      for (Item& item : inner) {
        outputs_on_grid.push_back(item.on_grid);
        outputs.push_back(std::move(item.tensor));
      }
      return outputs;
    });
    std::vector<Tensor> outputs = body(std::move(inputs));
    for (std::size_t i = 0; i < outputs.size(); ++i) pool.push_back({std::move(outputs[i]), outputs_on_grid[i]});
  }

  /// Uses of tensors besides computing the loss.
  void look(Pool& pool) {
    auto& kept = graph_.kept_;
    if (one_in(2) || kept.size() < 2) {
      const Tensor& tensor = pool[below(pool.size())].tensor;
      kept.push_back({tensor, bits_of(tensor)});
      return;
    }
    const auto& a = kept[below(kept.size())];
    const auto& b = kept[below(kept.size())];
    EXPECT_EQ(bits_of(a.tensor), a.bits) << "seed " << graph_.seed_;
    if (a.tensor.shape() != b.tensor.shape()) return;
    const NoGrad no_grad;
    const Tensor sum = ops::add(a.tensor, b.tensor);
    const Tensor expected = ops::add(from_bits(a), from_bits(b));
    EXPECT_EQ(bits_of(sum), bits_of(expected)) << "seed " << graph_.seed_;
  }

  static Tensor from_bits(const RandomGraph::Kept& kept) {
    Tensor tensor = Tensor::empty(kept.tensor.shape(), Dtype::Float32, device());
    copy_bytes(tensor.mutable_view().data, device(), kept.bits.data(), Device::Cpu, kept.bits.size());
    return tensor;
  }

  void instruction(Pool& pool, int depth) {
    switch (below(16)) {
      case 0:
      case 1:
        return pool.push_back({conv(take_any(pool), static_cast<std::int64_t>(1 + below(4))), false});
      case 2:
      case 3:
        return pool.push_back({norm(take_any(pool)), false});
      case 4:
        return pool.push_back({ops::relu(take_any(pool)), false});
      case 5:
        return pool.push_back({ops::dropout(take_any(pool), 0.25, graph_.dropout_), false});
      case 6: {
        const Tensor a = take_any(pool);
        return pool.push_back({ops::add(a, like(pool, a)), false});
      }
      case 7:
      case 8:
        return couple(pool);
      case 9:
        return concat(pool);
      case 10:
        return split(pool);
      case 11:
        return pool_pixels(pool);
      case 12:
        if (!graph_.watch_) look(pool);
        return;
      case 13:
      case 14:
        return dense_layers(pool);
      default:
        if (depth < 3) block(pool, depth);
    }
  }

  void run(Pool& pool, std::size_t instructions, int depth) {
    if (depth == 0) block(pool, depth);
    for (std::size_t i = 0; i < instructions; ++i) {
      instruction(pool, depth);
      if (graph_.watch_) pool.back().tensor = watch(std::move(pool.back().tensor), graph_.watch_);
      while (pool.size() > 8) pool.erase(pool.begin() + static_cast<std::ptrdiff_t>(below(pool.size())));
    }
  }

  Tensor head(const Pool& pool) {
    std::vector<Tensor> features;
    for (const Item& item : pool) {
      if (features.empty() || !one_in(4)) features.push_back(ops::global_avg_pool(item.tensor));
    }
    const Tensor joined = ops::concat(features);
    const Tensor logits = ops::linear(joined, parameter({3, joined.shape().c()}), parameter({3}));
    return ops::cross_entropy(logits, graph_.labels_);
  }

  RandomGraph& graph_;
  const PolicyOfBlock& policies_;
  Random random_;
  std::size_t parameters_ = 0;
  std::size_t statistics_ = 0;
  int blocks_ = 0;
};

Tensor RandomGraph::forward(const PolicyOfBlock& policies) {
  drop_kept();
  return Builder(*this, policies).loss();
}

Outcome RandomGraph::step(const PolicyOfBlock& policies) {
  const Tensor loss = forward(policies);
  check_kept();
  loss.backward();
  check_kept();
  Outcome outcome = state();
  outcome.loss = bits_of(loss);
  drop_kept();
  return outcome;
}

void RandomGraph::check_kept() const {
  for (const Kept& kept : kept_) EXPECT_EQ(bits_of(kept.tensor), kept.bits) << "seed " << seed_;
}

void RandomGraph::clear_gradients() const {
  for (const Tensor& parameter : parameters_) parameter.zero_grad();
}

Outcome RandomGraph::state() const {
  Outcome outcome;
  for (const Tensor& parameter : parameters_) outcome.gradients.push_back(bits_of(parameter.grad()));
  for (const auto& [mean, variance] : statistics_) {
    outcome.buffers.push_back(bits_of(mean));
    outcome.buffers.push_back(bits_of(variance));
  }
  outcome.counters = dropout_->offset;
  return outcome;
}

std::vector<Bits> RandomGraph::parameters() const {
  std::vector<Bits> bits;
  for (const Tensor& parameter : parameters_) bits.push_back(bits_of(parameter));
  return bits;
}

namespace {

class Chaos : public Policy {
 public:
  explicit Chaos(std::uint64_t salt) : salt_(salt) {}

  std::string_view name() const override { return "chaos"; }

  RecipePtr decide(const Value& value, const Op&, const BlockInfo&) const override { return any(draw(value, 0)); }

  bool keeps_optional(const Value& value, const Op&, const BlockInfo&) const override {
    return draw(value, 5) % 2 == 0;
  }

  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo&) const override {
    const std::uint32_t drawn = draw(value, 1 + static_cast<std::uint64_t>(offer.kind));
    if (drawn % 4 == 0) return std::nullopt;
    if (offer.kind == Offer::Kind::Solvable && drawn % 4 < 3) return memory::invert(*offer.node);
    return any(drawn / 4);
  }

 private:
  /// A function of where in the step the value was made, so that every step gets the same answers.
  std::uint32_t draw(const Value& value, std::uint64_t question) const {
    return philox(salt_, value.producer()->index * 8 + question)[0];
  }

  RecipePtr any(std::uint32_t drawn) const {
    switch (drawn % 8) {
      case 0:
      case 1:
        return nullptr;
      case 2:
      case 3:
        return memory::replay(static_cast<int>(drawn / 8 % 4));
      case 4:
        return drawn / 8 % 2 == 0 ? memory::fetch() : users_fetch();
      default:
        return memory::replay_into_arena(static_cast<int>(drawn % 8) - 5);
    }
  }

  /// The recipe of the user's policy.
  static RecipePtr users_fetch();

  std::uint64_t salt_;
};

/// A heavy op, so that the user's policy hands out the recipe that moves bytes.
class AnyHeavy : public Watch {
 public:
  AnyHeavy() : Watch({}, Cost::Heavy) {}
};

RecipePtr Chaos::users_fetch() {
  static const PolicyPtr policy = user::offload();
  const Value value({}, Dtype::Float32, device());
  return policy->decide(value, AnyHeavy(), BlockInfo());
}

}  // namespace

PolicyPtr chaos(std::uint64_t salt) { return std::make_shared<Chaos>(salt); }

}  // namespace palimpsest::test
