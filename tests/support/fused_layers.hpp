#pragma once

// Layers of concat, batch normalisation with ReLU and convolution, as the tests of fused and of separate ops write
// them.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {

/// Uniform in [-1, 1), a function of the seed; the same numbers in float32 and float64.
inline Tensor random_of(const Shape& shape, Dtype dtype, std::uint64_t seed) {
  const std::vector<float> values = random_tensor(shape, seed).to_vector<float>();
  if (dtype == Dtype::Float32) return from_vector(shape, values, Tag::Parameter);
  return from_vector(shape, std::vector<double>(values.begin(), values.end()), Tag::Parameter);
}

inline std::int64_t channels_of(const std::vector<Tensor>& parts) {
  std::int64_t channels = 0;
  for (const Tensor& part : parts) channels += part.shape().c();
  return channels;
}

/// How many ops of that name the step has recorded so far.
inline int recorded(std::string_view name) {
  const std::shared_ptr<Tape> tape = Tape::current();
  int count = 0;
  for (std::size_t i = 0; tape != nullptr && i < tape->nodes().size(); ++i) {
    count += tape->nodes()[i].op->name() == name ? 1 : 0;
  }
  return count;
}
inline constexpr std::string_view fused_name = "batch_norm_relu_conv2d";

/// One pass over a graph: makes leaves, in the order in which the graph asks for them, and remembers them with what the
/// graph has to be compared by. If `separate`, every result is held by somebody else as well, so that nothing fuses.
class Layers {
 public:
  Layers(Dtype dtype, bool separate, PolicyPtr policy)
      : dtype_(dtype), separate_(separate), policy_(std::move(policy)) {}

  Tensor leaf(const Shape& shape) { return leaves_.emplace_back(data(shape)).requires_grad(); }
  /// A leaf that wants no gradient.
  Tensor data(const Shape& shape) { return random_of(shape, dtype_, ++seed_); }
  /// A recorded value, made of a leaf.
  Tensor feature(std::int64_t channels) {
    const Tensor x = leaf(image(channels));
    return ops::add(x, x);
  }
  static Shape image(std::int64_t channels) { return {2, channels, 5, 5}; }

  Tensor joined(const std::vector<Tensor>& parts) { return keep(ops::concat(parts)); }
  Tensor norm(Tensor x, bool relu = true) {
    const std::int64_t channels = x.shape().c();
    const Tensor gamma = leaf({channels});
    const Tensor beta = leaf({channels});
    return norm(std::move(x), gamma, beta, relu);
  }
  Tensor norm(Tensor x, const Tensor& gamma, const Tensor& beta, bool relu = true) {
    const Shape shape = {x.shape().c()};
    const auto& running = running_.emplace_back(ops::RunningStatistics{zeros(shape, dtype_), zeros(shape, dtype_)});
    return keep(ops::batch_norm(std::move(x), gamma, beta, running, {.relu = relu}));
  }
  Tensor conv(Tensor x, std::int64_t outputs, std::int64_t kernel = 1) {
    const Tensor weight = leaf({outputs, x.shape().c(), kernel, kernel});
    return conv(std::move(x), weight);
  }
  Tensor conv(Tensor x, const Tensor& weight) {
    return ops::conv2d(std::move(x), weight, {.padding = ops::Padding::all(weight.shape()[2] / 2)});
  }
  /// The ops that fuse.
  Tensor layer(const std::vector<Tensor>& parts, std::int64_t outputs, std::int64_t kernel = 1) {
    ++layers_;
    return conv(norm(joined(parts)), outputs, kernel);
  }
  int layers() const { return layers_; }

  /// Runs the body as a block under the policy.
  std::vector<Tensor> block(std::vector<Tensor> inputs, AnyBlock::Body body) const {
    return AnyBlock(policy_, std::move(body))(std::move(inputs));
  }

  /// Adds a result's sum, with random weights, to the loss.
  void use(const Tensor& result) {
    const Tensor sum = weighted_sum(result, data(result.shape()));
    loss_ = loss_ ? ops::add(loss_, sum) : sum;
  }
  const Tensor& loss() const { return loss_; }

  /// Others that hold the results let go.
  void let_go() { held_.clear(); }

  /// The loss, every leaf's gradient and the running statistics.
  std::vector<Tensor> outcome() const {
    std::vector<Tensor> all{loss_};
    for (const Tensor& leaf : leaves_) all.push_back(leaf.grad());
    for (const auto& [mean, variance] : running_) {
      all.push_back(mean);
      all.push_back(variance);
    }
    return all;
  }

 private:
  Tensor keep(Tensor result) {
    if (separate_) held_.push_back(result);
    return result;
  }

  Dtype dtype_;
  bool separate_;
  PolicyPtr policy_;
  std::uint64_t seed_ = 0;
  int layers_ = 0;
  std::vector<Tensor> leaves_;
  std::vector<Tensor> held_;
  std::vector<ops::RunningStatistics> running_;
  Tensor loss_;
};

/// A layer of two parts whose parameters outlive a step, for tests that look at it closely.
struct Layer {
  explicit Layer(Dtype dtype = Dtype::Float32, std::int64_t kernel = 1)
      : a(random_of({2, 3, 4, 4}, dtype, 1).requires_grad()),
        b(random_of({2, 2, 4, 4}, dtype, 2).requires_grad()),
        gamma(random_of({5}, dtype, 3).requires_grad()),
        beta(random_of({5}, dtype, 4).requires_grad()),
        weight(random_of({4, 5, kernel, kernel}, dtype, 5).requires_grad()),
        running{random_of({5}, dtype, 6), random_of({5}, dtype, 7)} {}

  Tensor joined() const { return ops::concat(std::vector<Tensor>{a, b}); }
  Tensor norm(Tensor x, bool relu = true) const {
    return ops::batch_norm(std::move(x), gamma, beta, running, {.relu = relu});
  }
  Tensor norm() const { return norm(joined()); }
  Tensor conv(Tensor y) const {
    return ops::conv2d(std::move(y), weight, {.padding = ops::Padding::all(weight.shape()[2] / 2)});
  }
  Tensor loss_of(const Tensor& z) const { return weighted_sum(z, random_of(z.shape(), z.dtype(), 8)); }

  std::vector<Tensor> parameters() const { return {a, b, gamma, beta, weight}; }
  std::vector<Bits> statistics() const { return {bits_of(running.mean), bits_of(running.variance)}; }
  std::vector<Bits> gradients() const {
    std::vector<Bits> bits;
    for (const Tensor& parameter : parameters()) bits.push_back(bits_of(parameter.grad()));
    return bits;
  }
  bool has_gradients() const {
    const std::vector<Tensor> all = parameters();
    return std::any_of(all.begin(), all.end(), [](const Tensor& one) { return static_cast<bool>(one.grad()); });
  }
  std::vector<Bits> state() const {
    std::vector<Bits> bits = statistics();
    for (const Tensor& parameter : parameters()) bits.push_back(bits_of(parameter));
    return bits;
  }

  Tensor a, b, gamma, beta, weight;
  ops::RunningStatistics running;
};

/// The exception that ops and policies of the tests throw.
class Injected : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace palimpsest::test
