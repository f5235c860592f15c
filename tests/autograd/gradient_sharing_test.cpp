// A gradient that passes unchanged through a sum is shared by the sum's inputs. An op whose kernel may write its
// input's gradient over its output's (relu, batch_norm, dropout) must then not do so before the other has read it.

#include <gtest/gtest.h>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/core/generator.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/dropout.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using GradientSharingTest = TapeTest;

const Shape shape = {2, 3, 4, 4};

/// An op whose gradient may go where its output's gradient was. `seed` tells two of a kind apart.
struct InPlaceOp {
  std::string name;
  std::function<Tensor(Tensor, std::uint64_t seed)> run;
};

Tensor normalised(Tensor x, std::uint64_t seed, bool relu) {
  const ops::RunningStatistics running = {zeros({3}), zeros({3})};
  return ops::batch_norm(std::move(x), random_tensor({3}, seed), random_tensor({3}, seed + 50), running,
                         {.relu = relu});
}

std::vector<InPlaceOp> in_place_ops() {
  return {
      {"relu", [](Tensor x, std::uint64_t) { return ops::relu(std::move(x)); }},
      {"batch_norm", [](Tensor x, std::uint64_t seed) { return normalised(std::move(x), seed, false); }},
      {"batch_norm with relu", [](Tensor x, std::uint64_t seed) { return normalised(std::move(x), seed, true); }},
      {"dropout",
       [](Tensor x, std::uint64_t seed) {
         return ops::dropout(std::move(x), 0.5, std::make_shared<Generator>(Generator{seed, 0}));
       }},
  };
}

using Join = std::function<Tensor(Tensor, Tensor)>;

std::vector<Join> joins() {
  return {
      [](Tensor a, Tensor b) { return ops::add(a, std::move(b)); },
      [](Tensor a, Tensor b) { return ops::add(b, std::move(a)); },
      [](Tensor a, Tensor b) { return ops::couple(std::move(a), std::move(b)); },
      [](Tensor a, Tensor b) { return ops::couple(ops::round_to_grid(std::move(b), 10), std::move(a), 10); },
  };
}

/// The gradient that flows into every join: no two elements alike, so that one written over shows.
Tensor weights() { return random_tensor(shape, 40); }

Tensor branch(const InPlaceOp& op, const Tensor& leaf, std::uint64_t seed) {
  return op.run(ops::add(leaf, leaf), seed);
}

/// The gradient that reaches the leaf through its branch alone, where no gradient is shared with another branch.
Bits alone(const InPlaceOp& op, std::uint64_t seed) {
  const Tensor leaf = random_parameter(shape, seed);
  weighted_sum(branch(op, leaf, seed), weights()).backward();
  return bits_of(leaf.grad());
}

void expect_own_gradients(const InPlaceOp& left, const InPlaceOp& right, const Join& join, bool right_first) {
  const Tensor a = random_parameter(shape, 1);
  const Tensor b = random_parameter(shape, 2);
  Tensor from_b = right_first ? branch(right, b, 2) : Tensor();
  Tensor from_a = branch(left, a, 1);
  if (!right_first) from_b = branch(right, b, 2);
  weighted_sum(join(std::move(from_a), std::move(from_b)), weights()).backward();
  EXPECT_EQ(bits_of(a.grad()), alone(left, 1));
  EXPECT_EQ(bits_of(b.grad()), alone(right, 2));
}

TEST_F(GradientSharingTest, TwoInPlaceOpsUnderOneSumEachGetTheWholeGradient) {
  for (const InPlaceOp& left : in_place_ops()) {
    for (const InPlaceOp& right : in_place_ops()) {
      for (const Join& join : joins()) {
        for (const bool right_first : {false, true}) {
          SCOPED_TRACE(left.name + " and " + right.name + (right_first ? ", right first" : ""));
          expect_own_gradients(left, right, join, right_first);
        }
      }
    }
  }
}

TEST_F(GradientSharingTest, SoDoThreeUnderASumOfSums) {
  const std::vector<InPlaceOp> all = in_place_ops();
  for (std::size_t first = 0; first < all.size(); ++first) {
    std::vector<Tensor> leaves;
    std::vector<Tensor> branches;
    for (std::uint64_t i = 0; i < 3; ++i) {
      leaves.push_back(random_parameter(shape, i));
      branches.push_back(branch(all[(first + i) % all.size()], leaves.back(), i));
    }
    const Tensor inner = ops::add(branches[0], branches[1]);
    weighted_sum(ops::add(inner, branches[2]), weights()).backward();
    for (std::uint64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(bits_of(leaves[i].grad()), alone(all[(first + i) % all.size()], i)) << "from " << first << ", " << i;
    }
  }
}

TEST_F(GradientSharingTest, TheMemoryIsTakenOnceTheOtherIsDone) {
  const Tensor a = random_parameter(shape, 1);
  const Tensor b = random_parameter(shape, 2);
  const Tensor left = ops::relu(a);
  const Tensor right = ops::relu(b);
  const Tensor loss = weighted_sum(ops::add(left, right), weights());
  test_allocator().reset_peak();
  const std::size_t before = live_bytes();
  loss.backward();
  // The right one runs first and needs a gradient of its own beside the shared one; the left one writes over that.
  EXPECT_LE(test_allocator().stats().peak - before, 2 * a.value().bytes() + sizeof(float));
}

}  // namespace
}  // namespace palimpsest::test
