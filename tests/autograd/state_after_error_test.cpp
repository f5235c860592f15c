// Errors between the first op of a step and the end of its backward: the state is that of the steps that ended well.

#include <gtest/gtest.h>

#include "tests/autograd/side_by_side_support.hpp"

namespace palimpsest::test {
namespace {

using StateAfterErrorTest = SideBySideTest;

TEST_F(StateAfterErrorTest, AnExceptionBetweenTwoBlocksLeavesStateAlone) {
  under_every_policy([](const PolicyPtr& policy) {
    Case one(policy);
    const std::vector<Bits> before = one.net.state();
    one.net.between = [] { throw Injected("user code"); };
    EXPECT_THROW(one.loss(1), Injected);
    EXPECT_TRUE(one.net.state() == before);
    one.net.between = [] {};
    EXPECT_TRUE(one.after({1}) == Case(policy).after({1}));
  });
}

TEST_F(StateAfterErrorTest, AnExceptionThatLeavesAModelUndoesWhateverIsHeld) {
  Case one(memory::shared());
  const std::vector<Bits> before = one.net.state();
  Tensor kept;
  one.net.between = [&] {
    kept = ops::add(random_parameter({1}, 1), random_parameter({1}, 2));
    throw Injected("user code");
  };
  EXPECT_THROW(one.loss(1), Injected);
  EXPECT_TRUE(one.net.state() == before);
}

TEST_F(StateAfterErrorTest, LabelsOfAnotherNumberLeaveStateAlone) {
  under_every_policy([](const PolicyPtr& policy) {
    Case one(policy);
    const std::vector<Bits> before = one.net.state();
    const Tensor three = from_vector<std::int32_t>({3}, {0, 1, 2});
    EXPECT_THROW(ops::cross_entropy(ops::global_avg_pool(one.net(images(1))), three), ShapeError);
    EXPECT_TRUE(one.net.state() == before);
    Tensor scores = ops::global_avg_pool(one.net(images(1)));
    EXPECT_THROW(ops::cross_entropy(scores, three), ShapeError);
    scores = {};  // the step is given up only now
    EXPECT_TRUE(one.net.state() == before);
    scores = ops::global_avg_pool(one.net(images(1)));
    EXPECT_THROW(ops::cross_entropy(scores, three), ShapeError);
    ops::cross_entropy(scores, from_vector<std::int32_t>({2}, {0, 1})).backward();  // it goes on
    EXPECT_TRUE(one.net.state() == Case(policy).after({1}));
  });
}

TEST_F(StateAfterErrorTest, AForwardWithoutABackwardCountsUnlessAnErrorEndedIt) {
  Case one(memory::store_all());
  const std::vector<Bits> before = one.net.state();
  one.net(images(1));
  const std::vector<Bits> after = one.net.state();
  EXPECT_FALSE(after == before);
  const auto fails = [&] {
    const Tensor features = one.net(images(2));
    throw Injected("user code");
  };
  EXPECT_THROW(fails(), Injected);
  EXPECT_TRUE(one.net.state() == after);
}

TEST_F(StateAfterErrorTest, ASkippedStepStaysWhateverFailsAfterIt) {
  const auto watcher = [](Moment moment) {
    if (moment == Moment::Backward) throw Injected("injected");
  };
  under_every_policy([&](const PolicyPtr& policy) {
    Case broken(policy, 50);
    broken.net.watcher = watcher;
    Case skipped(policy, 1);
    const Tensor under_way = broken.loss(2);
    skipped.loss(1);
    const std::vector<Bits> after = skipped.net.state();
    EXPECT_THROW(under_way.backward(), Injected);
    EXPECT_TRUE(skipped.net.state() == after) << "another model";

    Case one(policy);
    one.net.watcher = watcher;
    const Tensor first = one.loss(2);
    one.loss(1);
    EXPECT_THROW(first.backward(), Injected);
    Case alone(policy);
    alone.loss(1);
    const std::size_t mean = one.net.parameters().size();
    EXPECT_TRUE(one.net.state()[mean] == alone.net.state()[mean]) << "another call of the same model";
  });
}

/// A net beside which another is called, on leaves, for nothing.
class WithCallInVain : public nn::Model<Tensor(Tensor)> {
 public:
  explicit WithCallInVain(const PolicyPtr& policy) : wanted(1, 3, 3), unwanted(50, 3, 3) {
    add_module("wanted", wanted);
    add_module("unwanted", unwanted);
    set_memory(policy);
  }
  Net wanted, unwanted;

 protected:
  Tensor forward(Tensor x) override {
    unwanted(x);
    return wanted(std::move(x));
  }
};

TEST_F(StateAfterErrorTest, APartOfACallThatNobodyWantsFailsWithTheCall) {
  under_every_policy([](const PolicyPtr& policy) {
    WithCallInVain net(policy);
    const std::vector<Bits> before = net.unwanted.state();
    const Tensor three = from_vector<std::int32_t>({3}, {0, 1, 2});
    EXPECT_THROW(ops::cross_entropy(ops::global_avg_pool(net(images(1))), three), ShapeError);
    EXPECT_TRUE(net.unwanted.state() == before);
    loss_of(net(images(1))).backward();
    EXPECT_FALSE(net.unwanted.state() == before) << "it was called";
  });
}

/// The program's own exception, outside of every model and past no tensor of the step: nothing of the library sees it.
TEST_F(StateAfterErrorTest, ALossThatOutlivesAnExceptionLeavesItsStepOpen) {
  under_every_policy([](const PolicyPtr& policy) {
    for (const bool goes_on : {true, false}) {
      Case one(policy);
      Tensor loss;
      const auto interrupted = [&] {
        loss = one.loss(1);
        throw Injected("user code");
      };
      EXPECT_THROW(interrupted(), Injected);
      if (goes_on) {
        loss.backward();
        EXPECT_TRUE(one.net.state() == Case(policy).after({1}));
        continue;
      }
      const std::vector<Bits> called = one.net.state();
      loss = {};
      EXPECT_TRUE(one.net.state() == called) << "a skipped step";
    }
  });
}

TEST_F(StateAfterErrorTest, WhatFailsIsUndoneUnderWhatWasBegunLater) {
  under_every_policy([](const PolicyPtr& policy) {
    for (const bool later_ends_first : {false, true}) {
      Case one(policy);
      const std::vector<Bits> before = one.net.state();
      bool broken = true;
      const auto watcher = [&broken](Moment moment) {
        if (broken && moment == Moment::Backward) throw Injected("injected");
      };
      one.net.watcher = watcher;
      const Tensor a = one.loss(1);
      one.net.watcher = nullptr;
      const Tensor b = one.loss(2);
      if (later_ends_first) b.backward();
      EXPECT_THROW(a.backward(), Injected);
      if (!later_ends_first) b.backward();
      // As if only b had been there, but for the random numbers that it has drawn behind a's: they show from the
      // second block on.
      const std::vector<Bits> found = one.net.state();
      const std::vector<Bits> only_b = Case(policy).after({2});
      const std::size_t mean = one.net.parameters().size();
      EXPECT_TRUE(found[mean] == only_b[mean]);
      EXPECT_TRUE(found[mean + 1] == only_b[mean + 1]);
      EXPECT_FALSE(found[mean] == before[mean]);
    }
  });
}

TEST_F(StateAfterErrorTest, AllThatFailIsUndoneInWhateverOrder) {
  for (const bool first_fails_first : {false, true}) {
    Case one(memory::shared());
    const std::vector<Bits> before = one.net.state();
    one.net.watcher = [](Moment moment) {
      if (moment == Moment::Backward) throw Injected("injected");
    };
    const Tensor a = one.loss(1);
    const Tensor b = one.loss(2);
    EXPECT_THROW((first_fails_first ? a : b).backward(), Injected);
    EXPECT_THROW((first_fails_first ? b : a).backward(), Injected);
    EXPECT_TRUE(one.net.state() == before);
  }
}

TEST_F(StateAfterErrorTest, WhatAnOldComputationLeavesToUndoDoesNotGrow) {
  Case one(memory::store_all());
  const Tensor held = one.loss(1);
  std::size_t live = 0;
  for (int step = 0; step < 100; ++step) {
    one.loss(2).backward();
    if (step == 60) live = live_bytes();
  }
  EXPECT_EQ(live_bytes(), live);
}

}  // namespace
}  // namespace palimpsest::test
