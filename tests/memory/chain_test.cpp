// Depth is free: chains of 100,000 nodes on a small stack.

#include <gtest/gtest.h>
#include <limits.h>
#include <pthread.h>

#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/couple.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

/// The emulator takes its time, and a stack of 256 KiB is too small for a tenth of this, too.
int depth() { return emulated() ? 10000 : 100000; }

/// Runs `body` on a thread whose stack is too small for any recursion over the graph.
void on_small_stack(const std::function<void()>& body) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  constexpr std::size_t stack_bytes = std::size_t{256} << 10;
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, stack_bytes), 0);
  const auto run = [](void* argument) -> void* {
    (*static_cast<const std::function<void()>*>(argument))();
    return nullptr;
  };
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, run, const_cast<std::function<void()>*>(&body)), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

Tensor chain_of_relus(Tensor x) {
  for (int i = 0; i < depth(); ++i) x = ops::relu(std::move(x));
  return x;
}

Tensor chain_of_couplings(Tensor x) {
  x = ops::relu(std::move(x));
  for (int i = 0; i < depth() / 2; ++i) {
    Tensor branch = ops::relu(from_vector<float>({1}, {1}).requires_grad());
    x = ops::couple(std::move(x), std::move(branch), 0);
  }
  return x;
}

class ChainTest : public TapeTest {
 protected:
  static void step(const PolicyPtr& policy, const std::function<Tensor(Tensor)>& chain, double expected) {
    on_small_stack([&] {
      const Tensor x = from_vector<float>({1}, {3}).requires_grad();
      const Tensor y = in_block(policy, x, chain);
      EXPECT_EQ(y.item(), expected);
      y.backward();
      EXPECT_EQ(x.grad().item(), 1);
    });
  }
};

TEST_F(ChainTest, StoreAll) { step(memory::store_all(), chain_of_relus, 3); }
TEST_F(ChainTest, Checkpoint) { step(memory::checkpoint(), chain_of_relus, 3); }
TEST_F(ChainTest, Reversible) { step(memory::reversible(), chain_of_couplings, 3 + depth() * 0.5); }

TEST_F(ChainTest, DroppedWithoutBackward) {
  for (const PolicyPtr& policy : {memory::store_all(), memory::checkpoint()}) {
    on_small_stack([&] {
      const Tensor x = from_vector<float>({1}, {3}).requires_grad();
      in_block(policy, x, chain_of_relus);
    });
  }
}

TEST_F(ChainTest, RestoredWhileRecording) {
  on_small_stack([&] {
    const Tensor x = from_vector<float>({1}, {3}).requires_grad();
    Tensor y = in_block(memory::checkpoint(), x, chain_of_relus);
    const std::shared_ptr<Tape> tape = Tape::current();
    const ValuePtr value = y.handle()->value;
    const Tensor z = ops::relu(y);
    y = {};
    ASSERT_TRUE(value->present() || value->recipe() != nullptr);
    Value& middle = *tape->nodes()[static_cast<std::size_t>(depth() / 2)].outputs[0];
    EXPECT_FALSE(middle.present());
    tape->restore(middle);  // by half the chain; nobody holds it, so it goes again
    EXPECT_FALSE(middle.present());
    z.backward();
    EXPECT_EQ(x.grad().item(), 1);
  });
}

TEST_F(ChainTest, FailedInTheMiddle) {
  on_small_stack([&] {
    const Tensor x = from_vector<float>({1}, {3}).requires_grad();
    int runs = 0;
    const Tensor y = in_block(memory::checkpoint(), x, [&](Tensor z) {
      z = watch(std::move(z), [&](Moment) {
        if (++runs == 2) throw DataError("the replay fails");
      });
      return chain_of_relus(std::move(z));
    });
    EXPECT_THROW(y.backward(), DataError);
    EXPECT_FALSE(x.grad());
  });
}

}  // namespace
}  // namespace palimpsest::test
