// Recipes are trusted, but checked: ops that do not repeat themselves are found and named, state that is committed
// twice is seen, and nothing that is right is called wrong.

#include <palimpsest/autograd/verify.hpp>

#include <gtest/gtest.h>

#include <set>

#include <palimpsest/core/philox.hpp>
#include <palimpsest/memory/recipes.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm_op.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/disturbed_op.hpp"
#include "tests/support/policies.hpp"
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using VerifyTest = TapeTest;
using Floats = std::vector<float>;

Floats floats_of(const View& view) {
  Floats values(static_cast<std::size_t>(view.shape.count()));
  copy_bytes(values.data(), Device::Cpu, view.data, view.device, view.bytes());
  return values;
}

void write(const View& view, const Floats& values) {
  copy_bytes(view.data, view.device, values.data(), Device::Cpu, view.bytes());
}

// --- A graph with everything that could go wrong ---------------------------------------------------------------------

/// The sum over channels of a matrix (N, C), in ascending order at first and in another one when it is run again: what
/// a library does that picks its kernel by how much memory is free.
class Fickle : public Op {
 public:
  explicit Fickle(const bool& fickle) : fickle_(fickle) {}

  std::string_view name() const override { return "fickle_sum"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }
  void forward(ForwardContext& io) override {
    const Floats x = floats_of(io.input(0));
    const bool descending = std::exchange(ran_, true) && fickle_;
    Floats sums(x.size());
    float sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += descending ? x[x.size() - 1 - i] : x[i];
    for (std::size_t i = 0; i < x.size(); ++i) sums[i] = sum * x[i];
    write(io.output(), sums);
  }
  void backward(BackwardContext& io) override { io.pass_through(0); }

 private:
  const bool& fickle_;
  bool ran_ = false;
};

/// Convolution, batch normalisation, dropout, the sum and another convolution, as one checkpointed block: everything in
/// it is run again.
class Net {
 public:
  Tensor forward() {
    for (const Tensor& parameter : parameters_) parameter.zero_grad();
    const Tensor y = in_block(policy, images_, [&](Tensor x) {
      x = ops::conv2d(std::move(x), parameters_[0], {.padding = ops::Padding::all(1)});
      x = ops::batch_norm(std::move(x), parameters_[1], parameters_[2], running_, {});
      x = ops::dropout(std::move(x), 0.3, generator_);
      std::vector<Tensor> inputs;
      inputs.push_back(std::move(x));
      x = apply_single(std::make_unique<Fickle>(fickle), std::move(inputs));
      return ops::relu(ops::conv2d(std::move(x), parameters_[3], {.padding = ops::Padding::all(1)}));
    });
    return ops::conv2d(y, parameters_[4]);
  }
  /// A step in which the nodes of this name are disturbed.
  void step(std::string_view name = "", const Replay& replay = {}) {
    const Tensor loss = forward();
    for (const Node& node : loss.handle()->tape->nodes()) {
      if (node.op->name() == name && node.block != nullptr) disturb(node, replay);
    }
    loss.backward();
  }
  std::vector<Bits> state() const {
    std::vector<Bits> bits{bits_of(running_.mean), bits_of(running_.variance), Bits(generator_->offset)};
    for (const Tensor& parameter : parameters_) {
      bits.push_back(bits_of(parameter));
      bits.push_back(bits_of(parameter.grad()));
    }
    return bits;
  }
  void zero_grad() {
    for (const Tensor& parameter : parameters_) parameter.zero_grad();
  }
  const ops::RunningStatistics& running() const { return running_; }
  Generator& generator() { return *generator_; }

  PolicyPtr policy = memory::checkpoint();
  bool fickle = false;

 private:
  Tensor images_ = random_tensor({1, 2, 8, 8}, 1);
  std::vector<Tensor> parameters_ = {random_parameter({4, 2, 3, 3}, 2), random_parameter({4}, 3),
                                     random_parameter({4}, 4), random_parameter({4, 4, 3, 3}, 5),
                                     random_parameter({1, 4, 8, 8}, 6)};
  ops::RunningStatistics running_ = {zeros({4}), zeros({4})};
  std::shared_ptr<Generator> generator_ = std::make_shared<Generator>(Generator{7, 0});
};

/// A sound step, a disturbed one that must fail and leave no trace, and that one again without the disturbance. Returns
/// the failure's message.
std::string caught(std::string_view op, const std::function<Replay(Net&)>& make_replay, bool fickle = false) {
  const VerifyScope scope(Verify::All);
  Net reference;
  reference.step();
  reference.step();

  Net net;
  net.step();
  net.zero_grad();
  const std::vector<Bits> before = net.state();
  net.fickle = fickle;
  const std::string message =
      message_of<VerificationError>([&] { net.step(op, make_replay ? make_replay(net) : Replay{}); });
  net.fickle = false;
  EXPECT_TRUE(net.state() == before);
  net.step();
  EXPECT_TRUE(net.state() == reference.state());
  return message;
}

TEST_F(VerifyTest, AFlippedBitIsCaught) {
  const std::string message = caught("conv2d", [](Net&) {
    return [](Op& op, ForwardContext& io) {
      op.forward(io);
      flip_bit(io.output(), 1234);
    };
  });
  EXPECT_TRUE(
      message.find(": output 0 (1, 4, 8, 8), restored by replay, is not what forward made; inputs (1, 2, 8, 8), "
                   "(4, 2, 3, 3)") != std::string::npos)
      << message;
  EXPECT_TRUE(message.starts_with("[conv2d]")) << message;
}

TEST_F(VerifyTest, ADropoutThatSkipsCountersIsCaught) {
  const std::string message = caught("dropout", [](Net& net) {
    return [&net](Op& op, ForwardContext& io) {
      // It draws its mask anew, from other counters, and covers it up.
      const std::uint64_t offset = net.generator().offset;
      ForwardContext first(io.inputs(), io.outputs(), io.device());
      op.begin(first);
      op.forward(first);
      net.generator().offset = offset;
    };
  });
  EXPECT_TRUE(message.starts_with("[dropout]")) << message;
  EXPECT_NE(message.find("is not what forward made"), std::string::npos) << message;
}

TEST_F(VerifyTest, ADropoutThatAdvancesItsCounterAgainIsCaught) {
  const std::string message = caught("dropout", [](Net& net) {
    return [&net](Op& op, ForwardContext& io) {
      op.forward(io);
      const std::uint64_t before = net.generator().reserve(1);
      io.on_failure([&net, before] { net.generator().offset = before; });
    };
  });
  EXPECT_TRUE(message.starts_with("[dropout]")) << message;
  EXPECT_NE(message.find("has changed the model's state"), std::string::npos) << message;
}

TEST_F(VerifyTest, StatisticsThatAreCommittedTwiceAreCaught) {
  const std::string message = caught("batch_norm", [](Net&) {
    return [](Op& op, ForwardContext& io) {
      op.begin(io);  // the very bits come back, but the running statistics have moved once more
      op.forward(io);
    };
  });
  EXPECT_TRUE(message.starts_with("[batch_norm]")) << message;
  EXPECT_NE(message.find("has changed the model's state"), std::string::npos) << message;
}

TEST_F(VerifyTest, ANormalisationWithOtherStatisticsIsCaught) {
  const std::string message = caught("batch_norm", [](Net& net) {
    return [&net](Op&, ForwardContext& io) {
      ops::BatchNorm with_running_statistics(net.running(), {.training = false});
      with_running_statistics.begin(io);
      with_running_statistics.forward(io);
    };
  });
  EXPECT_TRUE(message.starts_with("[batch_norm]")) << message;
  EXPECT_NE(message.find("is not what forward made"), std::string::npos) << message;
}

TEST_F(VerifyTest, AnotherKernelWhenRunAgainIsCaught) {
  const std::string message = caught("", nullptr, true);
  EXPECT_TRUE(message.starts_with("[fickle_sum]")) << message;
}

TEST_F(VerifyTest, OfSeveralFaultsTheFirstIsNamed) {
  const VerifyScope scope(Verify::All);
  Net net;
  const Tensor loss = net.forward();
  for (const Node& node : loss.handle()->tape->nodes()) {
    if (node.block == nullptr || node.op->name() == "conv2d") continue;
    disturb(node, [](Op& op, ForwardContext& io) {
      op.forward(io);
      flip_bit(io.output(), 3);
    });
  }
  const std::string message = message_of<VerificationError>([&] { loss.backward(); });
  EXPECT_TRUE(message.starts_with("[batch_norm]")) << message;
}

TEST_F(VerifyTest, WithoutVerificationNothingIsCompared) {
  const VerifyScope outer(Verify::All);
  const VerifyScope scope(Verify::Off);
  Net net;
  net.fickle = true;
  EXPECT_NO_THROW(net.step());
}

// A recipe of a user's that runs no node: what it fetches is compared, too.
TEST_F(VerifyTest, AFetchThatBringsOtherBytesIsCaught) {
  class Corrupt : public Recipe {
   public:
    std::string_view name() const override { return "corrupt fetch"; }
    const Node* via(const Value&) const override { return nullptr; }
    std::vector<Value*> sources(const Value&) const override { return {}; }
    void save(const View& bytes, const std::shared_ptr<Storage>&) override { copy_ = floats_of(bytes); }
    void restore(Restoring& restoring) override {
      copy_[1] = -copy_[1];
      write(restoring.destination(), copy_);
    }

   private:
    Floats copy_;
  };
  class Away : public Policy {
   public:
    std::string_view name() const override { return "away"; }
    RecipePtr decide(const Value&, const Op&, const BlockInfo&) const override { return std::make_shared<Corrupt>(); }
  };
  const VerifyScope scope(Verify::All);
  Net net;
  net.policy = std::make_shared<Away>();
  const std::string message = message_of<VerificationError>([&] { net.step(); });
  EXPECT_NE(message.find("restored by corrupt fetch, is not what forward made"), std::string::npos) << message;
}

// --- Reading in forward ----------------------------------------------------------------------------------------------

TEST_F(VerifyTest, AFaultThatPassesMayBeRetried) {
  if (device() == Device::Cuda) GTEST_SKIP() << "there the verdict is read at the end of backward";
  const VerifyScope scope(Verify::All);
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  AnyBlock block(memory::shared(), [](std::vector<Tensor> inputs) {
    Tensor first = ops::relu(inputs[0]);
    Tensor second = ops::gelu(ops::conv2d(first, random_parameter({2, 2, 1, 1}, 2)));
    return std::vector<Tensor>{first, second};
  });
  const std::vector<Tensor> y = block({x});
  const Tensor loss = ops::conv2d(y[1], random_parameter({1, 2, 4, 4}, 3));
  ASSERT_FALSE(y[0].value().present());  // evicted by the second from the arena that they share
  int faults = 1;
  disturb(*y[0].value().producer(), [&](Op& op, ForwardContext& io) {
    op.forward(io);
    if (faults-- > 0) flip_bit(io.output(), 0);
  });
  EXPECT_THROW(y[0].to_vector<float>(), VerificationError);
  EXPECT_FALSE(y[0].value().present());
  EXPECT_NO_THROW(y[0].to_vector<float>());
  EXPECT_NO_THROW(loss.backward());
}

TEST_F(VerifyTest, WhatTheUserHasChangedInPlaceIsNotCompared) {
  const VerifyScope scope(Verify::All);
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  const Tensor y = in_block(memory::checkpoint(), x, [](Tensor z) {
    z = ops::relu(std::move(z));
    const Tensor kept = ops::relu(ops::conv2d(z, random_parameter({2, 2, 1, 1}, 2)));
    z.detach().assign(zeros({1, 2, 4, 4}));  // its reader has read it; backward needs the bytes of before
    return kept;
  });
  const Tensor loss = ops::conv2d(y, random_parameter({1, 2, 4, 4}, 3));
  EXPECT_NO_THROW(loss.backward());
}

// --- What cannot be compared -----------------------------------------------------------------------------------------

/// A coupling of a stream, and another op behind it that reads the stream; returns the tape's loss.
Tensor coupled(std::optional<int> grid, const Tensor& x, const Tensor& weight) {
  const Tensor y = in_block(memory::reversible(), x, [&](Tensor z) {
    z = grid ? ops::round_to_grid(std::move(z), *grid) : ops::add(z, z);
    Tensor branch = ops::relu(ops::conv2d(x, weight));
    Tensor square = ops::conv2d(z, weight);
    return ops::add(ops::couple(std::move(z), std::move(branch), grid), square);
  });
  return ops::conv2d(y, random_parameter({1, 2, 4, 4}, 3));
}

TEST_F(VerifyTest, ABranchIsComparedWhereItsStreamCannotBe) {
  const VerifyScope scope(Verify::All);
  const Tensor x = random_parameter({1, 2, 4, 4}, 1);
  const Tensor weight = random_parameter({2, 2, 1, 1}, 2);
  EXPECT_NO_THROW(coupled(std::nullopt, x, weight).backward());
  EXPECT_NO_THROW(coupled(12, x, weight).backward());
  for (const std::optional<int> grid : {std::optional<int>(), std::optional<int>(12)}) {
    const Tensor loss = coupled(grid, x, weight);
    for (const Node& node : loss.handle()->tape->nodes()) {
      if (node.op->name() != "relu") continue;
      disturb(node, [](Op& op, ForwardContext& io) {
        op.forward(io);
        flip_bit(io.output(), 20);
      });
    }
    const std::string message = message_of<VerificationError>([&] { loss.backward(); });
    EXPECT_TRUE(message.starts_with("[relu]")) << message;
  }
}

// --- Samples ---------------------------------------------------------------------------------------------------------

/// Steps until a bit that is wrong in every replay of an op is found, from a step on.
int steps_until_found(const Shape& shape, std::size_t bit, int first) {
  const VerifyScope scope(Verify::Sampled);
  const Tensor x = random_parameter(shape, 1);
  const auto forward = [&] {
    return in_block(memory::checkpoint(), x, [](Tensor z) { return ops::relu(ops::relu(std::move(z))); });
  };
  const auto step = [&](bool wrong) {
    const Tensor y = forward();
    if (wrong) {
      disturb(y.handle()->tape->nodes()[0], [bit](Op& op, ForwardContext& io) {
        op.forward(io);
        flip_bit(io.output(), bit);
      });
    }
    ops::global_avg_pool(y).backward();
  };
  for (int i = 0; i < first; ++i) step(false);
  for (int steps = 1;; ++steps) {
    try {
      step(true);
    } catch (const VerificationError& error) {
      EXPECT_NE(std::string(error.what()).find("(in the sample of this step)"), std::string::npos);
      return steps;
    }
    if (steps > 1000) return steps;
  }
}

TEST_F(VerifyTest, SamplesReachEveryByteWithinAPeriod) {
  const Shape small{1, 1, 4, 4};
  const Shape large{1, 1, 256, 160};  // 40 pieces
  std::set<int> seen;
  for (const int first : {0, 1, 17, 30, 31}) {
    for (const std::size_t piece : {0, 1, 29, 30, 31, 38, 39}) {
      if (emulated() && piece % 3 != 0) continue;
      const int steps = steps_until_found(large, (piece * 4096 + 99) * 8, first);
      EXPECT_LE(steps, static_cast<int>(verify_period));
      seen.insert(steps);
    }
    EXPECT_LE(steps_until_found(small, 40, first), static_cast<int>(verify_period));
    if (emulated()) break;
  }
  EXPECT_GT(seen.size(), emulated() ? 2U : 10U);
}

TEST_F(VerifyTest, WhatIsWrongAllOverALargeTensorIsFoundAtOnce) {
  const VerifyScope scope(Verify::Sampled);
  const Shape shape{1, 1, 256, 160};
  for (int i = 0; i < 3; ++i) {
    const Tensor y = in_block(memory::checkpoint(), random_parameter(shape, 1),
                              [](Tensor z) { return ops::relu(ops::relu(std::move(z))); });
    disturb(y.handle()->tape->nodes()[0], [](Op& op, ForwardContext& io) {
      op.forward(io);
      Floats values = floats_of(io.output());
      for (float& value : values) value += 1;
      write(io.output(), values);
    });
    EXPECT_THROW(ops::global_avg_pool(y).backward(), VerificationError);
  }
}

// --- The flag --------------------------------------------------------------------------------------------------------

TEST(VerifyFlag, NamesAreRead) {
  for (const std::string_view name : verify_names()) EXPECT_EQ(to_string(parse_verify(name)), name);
  EXPECT_EQ(verify_names().size(), 3U);
  EXPECT_EQ(message_of<ValueError>([] { parse_verify("some"); }),
            "unknown verification 'some', expected one of off, sampled, all");
}

}  // namespace
}  // namespace palimpsest::test
