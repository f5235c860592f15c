// State that is changed by ops which are not recorded: those of a frozen stem in training mode, dropout on the images,
// a forward under NoGrad, an assignment of the user's.

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <stdexcept>
#include <thread>

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/policies.hpp"
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

class Injected : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Dropout, convolution and normalisation, in training mode.
class Layer : public nn::Block<Tensor(Tensor)> {
 public:
  Layer(std::uint64_t seed, std::int64_t in, std::int64_t out, bool frozen)
      : generator(std::make_shared<Generator>(Generator{seed, 40})) {
    weight_ = add_parameter("weight", random_tensor({out, in, 3, 3}, seed, Tag::Parameter));
    gamma_ = add_parameter("gamma", random_tensor({out}, seed + 1, Tag::Parameter));
    beta_ = add_parameter("beta", random_tensor({out}, seed + 2, Tag::Parameter));
    running_ = {add_buffer("mean", random_tensor({out}, seed + 3, Tag::Parameter)),
                add_buffer("variance", random_tensor({out}, seed + 4, Tag::Parameter))};
    for (auto& [name, parameter] : parameters()) parameter.requires_grad(!frozen);
  }

  Tensor mean() const { return running_.mean; }
  std::vector<Bits> state() const {
    return {bits_of(running_.mean), bits_of(running_.variance), Bits(generator->offset)};
  }

  const std::shared_ptr<Generator> generator;

 protected:
  Tensor forward(Tensor x) override {
    x = ops::dropout(std::move(x), 0.2, generator);
    x = ops::conv2d(std::move(x), weight_, {.padding = ops::Padding::all(1)});
    return ops::batch_norm(std::move(x), gamma_, beta_, running_, {.training = training(), .relu = true});
  }

 private:
  Tensor weight_, gamma_, beta_;
  ops::RunningStatistics running_;
};

/// A frozen stem under a head that is trained; `between` is called between them.
class FineTuned : public nn::Model<Tensor(Tensor)> {
 public:
  explicit FineTuned(const PolicyPtr& policy = nullptr) : stem(1, 3, 4, true), head(20, 4, 3, false) {
    add_module("stem", stem);
    add_module("head", head);
    set_memory(policy);
  }

  Layer stem, head;
  std::function<void()> between = [] {};

  std::vector<std::vector<Bits>> state() const { return {stem.state(), head.state()}; }

 protected:
  Tensor forward(Tensor x) override {
    x = stem(std::move(x));
    between();
    return head(std::move(x));
  }
};

Tensor images(std::uint64_t seed) { return random_tensor({2, 3, 6, 6}, 100 + seed); }
Tensor loss_of(const Tensor& features) {
  return ops::cross_entropy(ops::global_avg_pool(features), from_vector<std::int32_t>({2}, {0, 1}));
}
/// Labels that cross_entropy refuses.
Tensor three_labels() { return from_vector<std::int32_t>({3}, {0, 1, 2}); }

class UnrecordedStateTest : public TapeTest {
 protected:
  template <class Test>
  static void under_every_policy(const Test& test) {
    for (const PolicyPtr& policy : all_policies()) {
      SCOPED_TRACE(policy->name());
      test(policy);
    }
  }
};

TEST_F(UnrecordedStateTest, AStepThatFailsLeavesAFrozenStemAlone) {
  under_every_policy([](const PolicyPtr& policy) {
    FineTuned net(policy);
    const auto before = net.state();
    bool broken = true;
    const auto failing_backward = [&] {
      const Tensor features = watch(net(images(1)), [&](Moment moment) {
        if (broken && moment == Moment::Backward) throw Injected("backward");
      });
      loss_of(features).backward();
    };
    EXPECT_THROW(failing_backward(), Injected);
    EXPECT_TRUE(net.state() == before);

    EXPECT_THROW(ops::cross_entropy(ops::global_avg_pool(net(images(1))), three_labels()), ShapeError);
    EXPECT_TRUE(net.state() == before);

    net.between = [] { throw Injected("between two blocks"); };
    EXPECT_THROW(net(images(1)), Injected);
    EXPECT_TRUE(net.state() == before);
    net.between = [] {};

    broken = false;
    failing_backward();
    FineTuned undisturbed(policy);
    loss_of(undisturbed(images(1))).backward();
    EXPECT_FALSE(net.state() == before);
    EXPECT_TRUE(net.state() == undisturbed.state());
  });
}

TEST_F(UnrecordedStateTest, OutsideOfAModelToo) {
  Layer stem(1, 3, 4, true);
  Layer head(20, 4, 3, false);
  const auto before = stem.state();
  const auto fails_between = [&] {
    const Tensor x = stem(images(1));
    throw Injected("user code");
  };
  EXPECT_THROW(fails_between(), Injected);
  EXPECT_TRUE(stem.state() == before);

  const auto fails_in_the_end = [&] {
    Tensor x = ops::global_avg_pool(stem(images(1)));  // no op with state reads what has it
    ops::cross_entropy(head(ops::global_avg_pool(std::move(x))), three_labels());
  };
  EXPECT_ANY_THROW(fails_in_the_end());
  EXPECT_TRUE(stem.state() == before);

  // Nothing is trained at all, and nothing is wrong: the layer was called.
  stem(images(1));
  EXPECT_FALSE(stem.state() == before);
}

TEST_F(UnrecordedStateTest, AnOpThatFailsAfterItsBeginningIsUndone) {
  Layer stem(1, 3, 4, true);
  const auto before = stem.state();
  const Tensor x = images(1);
  std::size_t failures = 0;
  for (std::size_t allowed = 0;; allowed += 64) {
    test_allocator().set_limit(live_bytes() + allowed);
    std::optional<Tensor> y;
    try {
      y = stem(x);
      y->view();
    } catch (const OutOfMemory&) {
      ++failures;
      y.reset();
    }
    test_allocator().set_limit(0);
    if (y) break;
    EXPECT_TRUE(stem.state() == before) << allowed << " bytes";
  }
  EXPECT_GT(failures, 5U);
  EXPECT_FALSE(stem.state() == before);
}

TEST_F(UnrecordedStateTest, FeaturesThatAreHeldHoldNothingElse) {
  Layer stem(1, 3, 4, true);
  Layer head(20, 4, 3, false);
  const Tensor held = stem(images(1));
  std::size_t live = 0;
  for (int step = 0; step < 100; ++step) {
    loss_of(head(held)).backward();
    for (const auto& [name, parameter] : head.parameters()) parameter.zero_grad();
    if (step == 60) live = live_bytes();
  }
  EXPECT_EQ(live_bytes(), live);
}

TEST_F(UnrecordedStateTest, TwoHeadsReadOneFrozenStem) {
  Layer stem(1, 3, 4, true);
  Layer a(20, 4, 3, false);
  Layer b(30, 4, 3, false);
  const Tensor features = stem(images(1));
  const auto after = stem.state();
  const Tensor loss_a = loss_of(a(features));
  const Tensor loss_b = loss_of(b(features));
  loss_b.backward();
  loss_a.backward();
  EXPECT_TRUE(stem.state() == after);
}

TEST_F(UnrecordedStateTest, WhatWasCalledUnderNoGradStays) {
  under_every_policy([](const PolicyPtr& policy) {
    FineTuned net(policy);
    const Tensor features = watch(net(images(1)), [](Moment moment) {
      if (moment == Moment::Backward) throw Injected("backward");
    });
    {
      const NoGrad guard;
      net(images(2));
    }
    EXPECT_THROW(loss_of(features).backward(), Injected);
    // As if the failed step had not been, but for the random numbers that it has drawn.
    FineTuned other(policy);
    other.stem.generator->offset += 2 * 3 * 6 * 6 / 4;
    other.head.generator->offset += 2 * 4 * 6 * 6 / 4;
    {
      const NoGrad guard;
      other(images(2));
    }
    EXPECT_TRUE(net.state() == other.state());
  });
}

TEST_F(UnrecordedStateTest, AStatisticThatTheUserHasSetStays) {
  FineTuned net;
  const auto failing = [](Moment moment) {
    if (moment == Moment::Backward) throw Injected("backward");
  };
  const Tensor loss = loss_of(watch(net(images(1)), failing));
  const Tensor wanted = random_tensor({3}, 77);
  net.head.mean().assign(wanted);
  const Tensor later = loss_of(watch(net(images(2)), failing));
  EXPECT_THROW(later.backward(), Injected);
  EXPECT_TRUE(bits_of(net.head.mean()) == bits_of(wanted));
  EXPECT_THROW(loss.backward(), Injected);
  EXPECT_TRUE(bits_of(net.head.mean()) == bits_of(wanted));
}

TEST_F(UnrecordedStateTest, AFrozenNetHasTheBitsOfATrainedOne) {
  const Tensor weight = random_tensor({4, 6, 3, 3}, 1);
  const Tensor gamma = random_tensor({6}, 2);
  const Tensor beta = random_tensor({6}, 3);
  const Tensor x = random_tensor({2, 6, 12, 12}, 4);
  const auto forward = [&](bool norm_trained, bool weight_trained) {
    const ops::RunningStatistics running{random_tensor({6}, 5), random_tensor({6}, 6)};
    Tensor g = gamma.detach();
    Tensor b = beta.detach();
    Tensor w = weight.detach();
    g.requires_grad(norm_trained);
    b.requires_grad(norm_trained);
    w.requires_grad(weight_trained);
    Tensor y = ops::batch_norm(x, g, b, running, {.training = true, .relu = true});
    return bits_of(ops::conv2d(std::move(y), w, {.padding = ops::Padding::all(1)}));
  };
  const Bits trained = forward(true, true);
  EXPECT_TRUE(forward(false, false) == trained);
  EXPECT_TRUE(forward(false, true) == trained);
  EXPECT_TRUE(forward(true, false) == trained);
  const NoGrad guard;
  EXPECT_TRUE(forward(true, true) == trained);
}

TEST_F(UnrecordedStateTest, WhatAnotherThreadHasMadeIsThere) {
  const Tensor a = random_tensor({2, 3, 6, 6}, 1);
  const Tensor b = random_tensor({2, 3, 6, 6}, 2);
  Layer stem(1, 3, 4, true);
  Layer head(20, 4, 3, false);
  Layer other_stem(1, 3, 4, true);
  Tensor joined, features;
  std::thread([&] {
    set_thread_count(1);
    joined = ops::concat(std::vector<Tensor>{a, b});  // waits for a reader, when the thread has gone
    features = stem(a);
  }).join();
  EXPECT_TRUE(bits_of(joined) == bits_of(ops::concat(std::vector<Tensor>{a, b})));
  EXPECT_TRUE(bits_of(features) == bits_of(other_stem(a)));
  EXPECT_NO_THROW(loss_of(head(features)).backward());

  const NoGrad no_grad;
  const Tensor waits = ops::concat(std::vector<Tensor>{a, b});
  const Bits expected = bits_of(joined);
  std::vector<std::thread> readers;
  std::atomic<int> right = 0;
  for (int i = 0; i < 4; ++i) readers.emplace_back([&] { right += bits_of(waits) == expected ? 1 : 0; });
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(right, 4);
}

}  // namespace
}  // namespace palimpsest::test
