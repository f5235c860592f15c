// Reversal on a grid returns the very bits (see ops::couple); without one it does not.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/core/elementwise.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/policies.hpp"
#include "tests/support/tape_support.hpp"
#include "tests/support/training.hpp"

namespace palimpsest::test {
namespace {

using ReversalTest = TapeTest;

using Floats = std::vector<float>;

/// How many elements a branch saw in its first run, and how many it saw again, bit for bit, in its second.
struct Seen {
  std::size_t elements = 0;
  std::size_t same = 0;
};

/// The identity, which compares what it is given the second time with the first.
class Compare : public Op {
 public:
  explicit Compare(Seen& seen) : seen_(seen) {}

  std::string_view name() const override { return "compare"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {.outputs = bits(0)}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }

  void forward(ForwardContext& io) override {
    const View& from = io.input(0);
    std::vector<std::uint32_t> x(static_cast<std::size_t>(from.shape.count()));
    const std::size_t bytes = x.size() * sizeof x[0];
    copy_bytes(x.data(), Device::Cpu, from.data, from.device, bytes);
    copy_bytes(io.output().data, io.device(), from.data, from.device, bytes);
    if (first_.empty()) {
      first_ = std::move(x);
      return;
    }
    seen_.elements += x.size();
    for (std::size_t i = 0; i < x.size(); ++i) seen_.same += x[i] == first_[i] ? 1 : 0;
  }
  void backward(BackwardContext& io) override { io.pass_through(0); }

 private:
  Seen& seen_;
  std::vector<std::uint32_t> first_;
};

Tensor compare(Tensor x, Seen& seen) {
  std::vector<Tensor> inputs;
  inputs.push_back(std::move(x));
  return apply_single(std::make_unique<Compare>(seen), std::move(inputs));
}

struct Chain {
  Seen seen;
  Bits gradient;
};

/// 27 reversible units of two couplings each.
Chain fifty_four_couplings(const PolicyPtr& policy, std::optional<int> grid) {
  constexpr int units = 27;
  Chain chain;
  const Tensor images = random_parameter({2, 4, 8, 8}, 1);
  const auto on_grid = [&](Tensor x) { return grid ? ops::round_to_grid(std::move(x), *grid) : x; };
  Tensor a = on_grid(ops::relu(images));
  Tensor b = on_grid(ops::conv2d(images, random_parameter({4, 4, 1, 1}, 2)));
  for (std::uint64_t u = 0; u < units; ++u) {
    AnyBlock unit(policy, [&](std::vector<Tensor> streams) {
      const auto branch = [&](const Tensor& x, std::uint64_t seed) {
        const Tensor weight = random_parameter({4, 4, 3, 3}, seed);
        return ops::conv2d(ops::relu(compare(x, chain.seen)), weight, {.padding = ops::Padding::all(1)});
      };
      const auto small = [](Tensor x) {
        const Tensor gamma = from_vector<float>({4}, {0.1F, 0.2F, 0.3F, 0.4F}).requires_grad();
        return ops::batch_norm(std::move(x), gamma, zeros({4}), {zeros({4}), zeros({4})}, {});
      };
      Tensor y1 = ops::couple(std::move(streams[0]), small(branch(streams[1], 10 + 2 * u)), grid);
      Tensor y2 = ops::couple(std::move(streams[1]), small(branch(y1, 11 + 2 * u)), grid);
      return std::vector<Tensor>{std::move(y1), std::move(y2)};
    });
    std::vector<Tensor> streams;
    streams.push_back(std::move(a));
    streams.push_back(std::move(b));
    streams = unit(std::move(streams));
    a = std::move(streams[0]);
    b = std::move(streams[1]);
  }
  const Tensor score = ops::conv2d(ops::couple(std::move(a), std::move(b)), random_parameter({1, 4, 8, 8}, 3));
  ops::cross_entropy(
      in_block(memory::store_all(), score,
               [](Tensor x) {
                 return ops::linear(ops::global_avg_pool(std::move(x)), from_vector<float>({2, 1}, {1, 2}), zeros({2}));
               }),
      from_vector<std::int32_t>({2}, {0, 1}))
      .backward();
  chain.gradient = bits_of(images.grad());
  return chain;
}

TEST_F(ReversalTest, OnAGridFiftyFourCouplingsComeBackBitForBit) {
  const Chain stored = fifty_four_couplings(memory::store_all(), 12);
  const Chain reversed = fifty_four_couplings(memory::reversible(), 12);
  EXPECT_EQ(stored.seen.elements, 0U);
  EXPECT_GE(reversed.seen.elements, 53U * 2 * 4 * 8 * 8);
  EXPECT_EQ(reversed.seen.same, reversed.seen.elements);
  EXPECT_EQ(reversed.gradient, stored.gradient);
}

TEST_F(ReversalTest, WithoutAGridTheyComeBackUpToRounding) {
  const Chain stored = fifty_four_couplings(memory::store_all(), std::nullopt);
  const Chain reversed = fifty_four_couplings(memory::reversible(), std::nullopt);
  EXPECT_LT(reversed.seen.same, reversed.seen.elements);
  EXPECT_NE(reversed.gradient, stored.gradient);
}

// --- The grid's limits -----------------------------------------------------------------------------------------------

/// x + f on the grid 2^-s, and x solved from that.
struct Coupled {
  Floats sum;
  Floats solved;
};

Coupled couple_and_solve(const Floats& x, const Floats& f, int s) {
  const Shape shape{static_cast<std::int64_t>(x.size())};
  const Tensor stream = ops::round_to_grid(from_vector(shape, x).requires_grad(), s);
  const Tensor branch = from_vector(shape, f);
  const Tensor y = ops::couple(stream, branch, s);
  const Tensor solved = zeros(shape);
  const std::vector<View> inputs = {View{}, branch.value().view()};
  y.value().producer()->op->solve(inputs, y.value().view(), solved.mutable_view());
  return {y.to_vector<float>(), solved.to_vector<float>()};
}

TEST_F(ReversalTest, NegativeZeroComesBackAsItWas) {
  const Coupled result = couple_and_solve({-0.0F, 0.0F, -0.0F, 0.0F, -0.0F}, {0.0F, -0.0F, -0.0F, -0.01F, 0.01F}, 3);
  for (const float value : result.solved) EXPECT_FALSE(std::signbit(value));  // as the grid had it
  for (const float value : result.sum) EXPECT_FALSE(std::signbit(value));
}

TEST_F(ReversalTest, ValuesAtTheEdgeOfTheRangeComeBack) {
  for (const int s : {0, 1, 12, 23}) {
    const float end = std::ldexp(1.0F, 24 - s);
    const float step = std::ldexp(1.0F, -s);
    const Floats x = {end - step, -(end - step), end - step, 0, step, end / 2 - step};
    const Floats f = {0, 0, -2 * (end - step), end - step, -(end - step), end / 2};
    const Coupled result = couple_and_solve(x, f, s);
    EXPECT_EQ(result.solved, x) << "grid " << s;
    EXPECT_EQ(result.sum, (Floats{end - step, step - end, step - end, end - step, 2 * step - end, end - step}));
  }
}

TEST_F(ReversalTest, AStreamThatLeavesTheRangeIsKept) {
  if (device() == Device::Cuda) GTEST_SKIP() << "the host learns of it later";
  const float end = std::ldexp(1.0F, 24 - 12);
  const float step = std::ldexp(1.0F, -12);
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto unsolvable = [](float x, float f) {
    const Tensor stream = ops::relu(from_vector<float>({2}, {0, x}).requires_grad());
    const Tensor y = in_block(memory::reversible(), stream, [&](const Tensor& z) {
      const Tensor sum = ops::couple(z, from_vector<float>({2}, {0, f}), 12);
      EXPECT_EQ(z.value().recipe() == nullptr, unsolvable_couplings(sum) == 1) << x << " + " << f;
      const float expected = x + f;
      const float found = sum.to_vector<float>()[1];
      EXPECT_EQ(std::memcmp(&found, &expected, sizeof found), 0) << x << " + " << f;
      return sum;
    });
    return unsolvable_couplings(y);
  };
  for (const auto& [x, f] : std::vector<std::pair<float, float>>{
           {end - step, step}, {1, end - 1}, {1, -end - 1}, {0, infinity}, {0, nan}, {0, end}, {end, 0}}) {
    EXPECT_EQ(unsolvable(x, f), 1U) << x << " + " << f;
  }
  EXPECT_EQ(unsolvable(end - step, -1), 0U);
  EXPECT_EQ(unsolvable(2 * end, -end - 1), 0U) << "the sum is in the range, and so exact";
}

TEST_F(ReversalTest, AGridThatTheTypeDoesNotHoldIsRefused) {
  const Tensor x = zeros({2}).requires_grad();
  const Tensor wide = zeros({2}, Dtype::Float64).requires_grad();
  for (const int s : {-1, 24, 100}) {
    EXPECT_THROW(ops::couple(x, x, s), ValueError);
    EXPECT_THROW(ops::round_to_grid(x, s), ValueError);
  }
  EXPECT_THROW(ops::couple(wide, wide, 53), ValueError);
  EXPECT_NO_THROW(ops::couple(wide, wide, 52));
  EXPECT_NO_THROW(ops::couple(x, x, 23));
}

/// A RevNet whose streams leave the range of their grid at once.
std::unique_ptr<nn::RevNet> leaving_the_range() {
  nn::ResidualOptions spec;
  spec.units = {2};
  spec.filters = {8};
  spec.stem_channels = 8;
  spec.grid = 21;  // holds only |x| < 8
  auto model = std::make_unique<nn::RevNet>(spec, nn::Init(1, device()));
  for (const auto& [name, parameter] : model->parameters()) {
    if (!name.ends_with("norm2.weight")) continue;
    fill(parameter.mutable_view().data, 100, parameter.shape().count(), parameter.dtype(), device());
  }
  return model;
}

/// Forward and backward; returns the number of streams that were kept. Reads nothing from the device.
std::size_t run_through(nn::RevNet& model) {
  for (const auto& [name, parameter] : model.parameters()) parameter.zero_grad();
  const Tensor loss =
      ops::cross_entropy(model(random_tensor({2, 3, 8, 8}, 1)), from_vector<std::int32_t>({2}, {1, 2}, Tag::Data));
  const std::size_t kept = unsolvable_couplings(loss);
  loss.backward();
  return kept;
}

std::vector<Bits> gradients_and_buffers(const nn::RevNet& model) {
  std::vector<Bits> bits;
  for (const auto& [name, parameter] : model.parameters()) bits.push_back(bits_of(parameter.grad()));
  for (const auto& [name, buffer] : model.buffers()) bits.push_back(bits_of(buffer));
  return bits;
}

/// On CUDA a step that finds out fails, and the next knows.
std::size_t run_through_again(nn::RevNet& model) {
  try {
    return run_through(model);
  } catch (const RangeError&) {
    EXPECT_EQ(device(), Device::Cuda);
    return run_through(model);
  }
}

TEST_F(ReversalTest, StreamsThatLeaveTheRangeCostMemoryAndNoBits) {
  const auto after = [](const PolicyPtr& policy, std::size_t& kept) {
    const std::unique_ptr<nn::RevNet> model = leaving_the_range();
    model->set_memory(policy);
    kept = run_through_again(*model);
    return gradients_and_buffers(*model);
  };
  std::size_t kept = 0;
  const std::vector<Bits> stored = after(memory::store_all(), kept);
  EXPECT_EQ(kept, 0U);
  EXPECT_TRUE(after(memory::reversible(), kept) == stored);
  EXPECT_GT(kept, 0U);
  EXPECT_TRUE(after(memory::checkpoint(), kept) == stored);
  EXPECT_EQ(kept, 0U);
}

TEST_F(ReversalTest, OnCudaTheStepThatFindsOutIsWithoutEffectAndTheNextOneKnows) {
  if (device() != Device::Cuda) GTEST_SKIP() << "the stream is kept at once";
  const std::unique_ptr<nn::RevNet> model = leaving_the_range();
  model->set_memory(memory::reversible());
  const std::vector<Bits> before = gradients_and_buffers(*model);
  EXPECT_THROW(run_through(*model), RangeError) << "backward tells, before any gradient is there";
  EXPECT_TRUE(gradients_and_buffers(*model) == before);
  std::size_t kept = 0;
  EXPECT_NO_THROW(kept = run_through(*model));
  EXPECT_GT(kept, 0U);
  EXPECT_NO_THROW(EXPECT_EQ(run_through(*model), kept)) << "it still leaves the range, which is known";
}

TEST_F(ReversalTest, OnCudaAnErrorThatIsIgnoredIsToldAgainByBackward) {
  if (device() != Device::Cuda) GTEST_SKIP() << "there is none";
  const std::unique_ptr<nn::RevNet> model = leaving_the_range();
  model->set_memory(memory::reversible());
  const Tensor loss =
      ops::cross_entropy((*model)(random_tensor({2, 3, 8, 8}, 1)), from_vector<std::int32_t>({2}, {1, 2}, Tag::Data));
  EXPECT_THROW(loss.item(), RangeError);
  EXPECT_NO_THROW(loss.item());
  EXPECT_THROW(loss.backward(), RangeError);
  for (const auto& [name, parameter] : model->parameters()) EXPECT_FALSE(parameter.grad());
}

TEST_F(ReversalTest, AStreamThatIsBackInTheRangeIsSolvedForAgain) {
  const std::unique_ptr<nn::RevNet> model = leaving_the_range();
  model->set_memory(memory::reversible());
  EXPECT_GT(run_through_again(*model), 0U);
  synchronize(device());  // a loop reads in every step: the loss, or the gradients' norm
  for (const auto& [name, parameter] : model->parameters()) {
    if (!name.ends_with("norm2.weight")) continue;
    fill(parameter.mutable_view().data, 0, parameter.shape().count(), parameter.dtype(), device());
  }
  run_through_again(*model);
  synchronize(device());
  EXPECT_EQ(run_through_again(*model), 0U);
}

TEST_F(ReversalTest, TrainingTakesAStepAgainInWhichAStreamHasLeftTheRange) {
  int attempts = 0;
  int again = 0;
  const auto after_two_steps = [&](const PolicyPtr& policy) {
    nn::ResidualOptions spec = revnet_spec({2, 2}, 23);  // holds only |x| < 2
    Training training = training_of<nn::RevNet>(spec, nn::Init(5, device()), two_images());
    training.model().set_memory(policy);
    attempts = again = 0;
    for (int step = 0; step < 2; ++step) EXPECT_NO_THROW(training.step([&] { ++attempts; }, [&] { ++again; }));
    EXPECT_EQ(attempts, 2 + again) << policy->name();
    return training.state();
  };
  const std::vector<Bits> stored = after_two_steps(memory::store_all());
  for (const PolicyPtr& policy : all_policies()) {
    EXPECT_TRUE(after_two_steps(policy) == stored) << policy->name();
  }
  after_two_steps(memory::reversible());
  EXPECT_EQ(again > 0, device() == Device::Cuda) << "whoever watches is told";
}

TEST_F(ReversalTest, AnEvaluationSolvesNothingAndChecksNothing) {
  const std::unique_ptr<nn::RevNet> model = leaving_the_range();
  model->set_memory(memory::reversible());
  const NoGrad no_grad;
  for (const bool training : {true, false}) {
    model->train(training);
    EXPECT_NO_THROW(((*model)(random_tensor({2, 3, 8, 8}, 1)), synchronize(device())));
  }
}

// --- A policy asked for in vain --------------------------------------------------------------------------------------

TEST_F(ReversalTest, APolicyThatFindsNothingToActOnIsNamedAndKeepsWhatThereIs) {
  nn::DenseNetOptions spec;
  spec.layers = {2};
  spec.growth_rate = 4;
  const auto state_after_a_step = [&](const PolicyPtr& policy, std::vector<std::string>& idle) {
    nn::DenseNet model(spec, nn::Init(1, device()));
    model.set_memory(policy);
    const Tensor loss =
        ops::cross_entropy(model(random_tensor({2, 3, 4, 4}, 1)), from_vector<std::int32_t>({2}, {1, 2}));
    idle = idle_policies(loss);
    loss.backward();
    std::vector<Bits> bits{bits_of(loss)};
    for (const auto& [name, parameter] : model.parameters()) bits.push_back(bits_of(parameter.grad()));
    return bits;
  };
  std::vector<std::string> idle;
  const std::vector<Bits> stored = state_after_a_step(memory::store_all(), idle);
  EXPECT_TRUE(idle.empty());
  EXPECT_TRUE(state_after_a_step(memory::reversible(), idle) == stored);
  EXPECT_EQ(idle, std::vector<std::string>{"'reversible'"});
}

TEST_F(ReversalTest, StepsThatSkipAllReversibleUnitsAreLikeAnyOther) {
  nn::Init init(1, device());
  const nn::UnitShape shape{4, 4, 1};
  nn::RevNetUnit unit(init, shape, false, true, std::nullopt);
  unit.set_memory(memory::reversible());
  for (const bool skipped : {true, false, true}) {
    const Tensor x = random_parameter({1, 4, 4, 4}, 1);
    nn::Streams streams{ops::relu(x), ops::relu(x)};
    // A layer of the unit's block that couples nothing: what stochastic depth leaves of it.
    streams = skipped ? nn::Streams{in_block(memory::reversible(), streams.a, [](Tensor y) { return ops::relu(y); }),
                                    streams.b}
                      : unit(std::move(streams));
    EXPECT_NO_THROW(ops::conv2d(ops::add(streams.a, streams.b), random_parameter({1, 4, 4, 4}, 2)).backward());
  }
}

// --- In place --------------------------------------------------------------------------------------------------------

/// The highest live bytes of backward through `units` couplings of one stream, in whole tensors of its size.
std::size_t peak_of_backward(const PolicyPtr& policy, int units) {
  const Shape shape{1, 8, 32, 32};
  const Tensor start = random_parameter(shape, 1);
  const Tensor other = random_parameter(shape, 2);
  Tensor x = in_block(policy, start, [&](Tensor y) {
    y = ops::relu(std::move(y));
    for (int u = 0; u < units; ++u) {
      Tensor f = ops::add(other, other);  // which no gradient reads
      y = ops::couple(std::move(y), std::move(f));
    }
    return y;
  });
  const Tensor loss = weighted_sum(ops::avg_pool2d(std::exchange(x, {}), 32, 32), random_tensor({1, 8, 1, 1}, 3));
  test_allocator().reset_peak();
  loss.backward();
  return test_allocator().stats().peak / start.value().bytes();
}

TEST_F(ReversalTest, TheStreamIsRestoredInTheMemoryOfItsBranch) {
  // The two leaves, y, the branch and in its place x, the gradient of y and that of the branch's leaf.
  EXPECT_EQ(peak_of_backward(memory::reversible(), 2), 6U);
  EXPECT_EQ(peak_of_backward(memory::reversible(), 20), 6U);
}

}  // namespace
}  // namespace palimpsest::test
