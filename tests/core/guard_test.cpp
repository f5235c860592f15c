// Small guards of the tape, of a policy and of the optimiser, each by the smallest graph in which only it stands
// between a careless step and wrong bits, or bytes too many.

#include <gtest/gtest.h>

#include <palimpsest/memory/recipes.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using GuardTest = TapeTest;

const Shape image = {1, 2, 4, 4};

/// One number from an image, through a convolution whose gradient reads it.
Tensor score(const Tensor& x) { return ops::conv2d(x, random_parameter({1, 2, 4, 4}, 99)); }

Tensor conv(const Tensor& x, std::uint64_t seed) { return ops::conv2d(x, random_parameter({2, 2, 1, 1}, seed)); }

std::size_t arena_bytes() { return test_allocator().stats().live_by_tag[static_cast<std::size_t>(Tag::Arena)]; }

// --- The optimiser ---------------------------------------------------------------------------------------------------

TEST_F(GuardTest, AnOptimiserStepBetweenForwardAndBackwardIsNoticed) {
  const Tensor weight = random_parameter({1, 4}, 1);
  const Tensor x = random_parameter({1, 4}, 2);
  const auto forward = [&] { return ops::linear(x, weight, zeros({1})); };
  nn::Sgd sgd({{"weight", weight}}, {});
  forward().backward();
  const Tensor loss = forward();
  sgd.step();
  x.zero_grad();
  const std::string message = message_of<StateError>([&] { loss.backward(); });
  EXPECT_NE(message.find("[linear] input 1 (1, 4) was changed"), std::string::npos) << message;
  EXPECT_FALSE(x.grad());
  forward().backward();
  EXPECT_TRUE(x.grad());
}

// --- The size rule of `shared` ---------------------------------------------------------------------------------------

TEST_F(GuardTest, SharedReplaysNothingThatIsSmallerThanItsInputs) {
  const Tensor x = random_parameter(image, 1);
  in_block(memory::shared(), x, [](Tensor y) {
    y = conv(y, 1);
    EXPECT_EQ(ops::avg_pool2d(y, 2, 2).value().recipe(), nullptr);
    EXPECT_EQ(ops::add(y, y).value().recipe(), nullptr);
    EXPECT_NE(ops::relu(y).value().recipe(), nullptr);
    const Tensor joined = ops::concat(std::vector<Tensor>{y, y});
    joined.view();  // which computes it
    EXPECT_NE(joined.value().recipe(), nullptr);
    return y;
  });
}

TEST_F(GuardTest, SharedKeepsAPooledImageAndNotTheFourTimesAsManyBytesBefore) {
  const Tensor x = random_parameter(image, 1);
  Tensor y = in_block(memory::shared(), x, [](Tensor z) {
    Tensor wide = conv(z, 1);
    const std::shared_ptr<const Value> before = wide.value().shared_from_this();
    Tensor pooled = ops::avg_pool2d(wide, 2, 2);
    const std::shared_ptr<const Value> after = pooled.value().shared_from_this();
    Tensor next = conv(std::exchange(pooled, {}), 2);
    wide = {};
    EXPECT_FALSE(before->present());
    EXPECT_TRUE(after->present());
    return next;
  });
  ops::conv2d(std::move(y), random_parameter({1, 2, 2, 2}, 3)).backward();
}

// --- Arenas ----------------------------------------------------------------------------------------------------------

TEST_F(GuardTest, WhoTakesOverATenantsMemoryIsTheTenant) {
  const Tensor x = random_parameter(image, 1);
  Tensor y = in_block(memory::shared(), x, [](Tensor z) {
    Tensor first = ops::gelu(conv(z, 1));
    const void* const memory = first.view().data;
    const Tensor second = ops::relu(std::move(first));
    EXPECT_EQ(second.view().data, memory);
    const Bits bits = bits_of(second);
    const Tensor third = ops::gelu(conv(z, 2));
    EXPECT_FALSE(second.value().present());  // evicted: the arena holds one value at a time
    EXPECT_EQ(arena_bytes(), third.value().bytes());
    EXPECT_EQ(bits_of(second), bits);
    EXPECT_EQ(arena_bytes(), third.value().bytes());
    return conv(ops::add(conv(second, 3), conv(third, 4)), 5);
  });
  score(y).backward();
  EXPECT_TRUE(x.grad());
}

/// A tenant that becomes the stream of a coupling is no tenant any more: its bytes are its holder's.
void expect_stream_stays(std::optional<int> grid) {
  const auto shared_block = [](const Tensor& y, std::uint64_t seed) {
    return in_block(memory::shared(), y, [&](Tensor z) { return ops::gelu(conv(z, seed)); });
  };
  const Tensor x = random_parameter(image, 1);
  Tensor stream = shared_block(x, 1);
  if (grid) stream = in_block(memory::shared(), stream, [&](Tensor z) { return ops::round_to_grid(z, *grid); });
  const Bits bits = bits_of(stream);
  EXPECT_EQ(arena_bytes(), stream.value().bytes());
  const Tensor f = conv(x, 2);
  const Tensor y = in_block(memory::reversible(), stream, [&](Tensor z) { return ops::couple(z, f, grid); });
  const Tensor next = shared_block(y, 3);  // leases the arena
  EXPECT_TRUE(stream.value().present());
  EXPECT_EQ(bits_of(stream), bits);
  score(next).backward();
  EXPECT_EQ(bits_of(stream), bits);
}

TEST_F(GuardTest, AHeldTenantThatBecomesAStreamKeepsItsBytes) {
  expect_stream_stays(10);
  expect_stream_stays(std::nullopt);  // to solve for it would change its bits
}

// --- Taking over a branch's memory -----------------------------------------------------------------------------------

/// Decides nothing but what it is told to reconsider.
class Told : public Policy {
 public:
  using Reconsider = std::function<std::optional<RecipePtr>(const Value&, const Offer&)>;
  explicit Told(Reconsider reconsider) : reconsider_(std::move(reconsider)) {}

  std::string_view name() const override { return "told"; }
  RecipePtr decide(const Value&, const Op&, const BlockInfo&) const override { return nullptr; }
  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo&) const override {
    return reconsider_(value, offer);
  }

 private:
  Reconsider reconsider_;
};

/// For a value with the same bits as the branch of a coupling: copies them, while the coupling's turn lasts.
class CopyOfBranch : public Recipe {
 public:
  explicit CopyOfBranch(const Node& coupling) : coupling_(coupling) {}

  std::string_view name() const override { return "copy of branch"; }
  const Node* via(const Value&) const override { return &coupling_; }
  std::vector<Value*> sources(const Value&) const override { return {coupling_.inputs[1].get()}; }
  void restore(Restoring& restoring) override {
    const Value& branch = *coupling_.inputs[1];
    const View to = restoring.destination();
    copy_bytes(to.data, to.device, branch.view().data, branch.device(), branch.bytes());
  }

 private:
  const Node& coupling_;
};

/// The gradient of a step in which a coupling's branch serves two values: the stream is solved with it first, and
/// `twin` is copied from it then.
Bits gradient_with_a_twin(bool restored) {
  const Node* coupling = nullptr;
  const auto policy = std::make_shared<Told>([&](const Value&, const Offer& offer) -> std::optional<RecipePtr> {
    if (!restored || offer.kind == Offer::Kind::InsideBranch) return std::nullopt;
    if (offer.kind == Offer::Kind::Solvable) return memory::invert(*(coupling = offer.node));
    return coupling != nullptr ? std::optional<RecipePtr>(std::make_shared<CopyOfBranch>(*coupling)) : std::nullopt;
  });
  const Tensor x = random_parameter(image, 1);
  Tensor twin = ops::relu(conv(x, 2));
  Tensor y = in_block(policy, conv(x, 1), [&](Tensor z) {
    z = ops::round_to_grid(std::move(z), 10);
    const Tensor early = conv(z, 3);              // its gradient reads the stream
    const Tensor f = watch(twin, [](Moment) {});  // the twin is held, so this is a copy
    return ops::add(early, ops::couple(std::move(z), f, 10));
  });
  const std::shared_ptr<const Value> alive = twin.value().shared_from_this();
  const Tensor other = in_block(policy, std::exchange(twin, {}), [](Tensor z) { return ops::relu(std::move(z)); });
  EXPECT_EQ(alive->present(), !restored);
  score(ops::add(std::move(y), other)).backward();
  return bits_of(x.grad());
}

TEST_F(GuardTest, ABranchThatServesAnotherValueIsNotGivenToTheStream) {
  EXPECT_EQ(gradient_with_a_twin(true), gradient_with_a_twin(false));
}

TEST_F(GuardTest, ABranchThatTheUserHoldsIsNotGivenToTheStream) {
  // Made outside of the block, by an op whose gradient does not read it: nothing could bring it back.
  const Tensor x = random_parameter(image, 1);
  const Tensor f = conv(x, 2);
  const Tensor parameter = random_parameter(image, 3);
  const Bits bits = bits_of(f);
  const Bits parameter_bits = bits_of(parameter);
  const Tensor y = in_block(memory::reversible(), conv(x, 1), [&](Tensor z) {
    for (const Tensor& branch : {f, parameter}) {
      Tensor stream = ops::relu(std::move(z));
      z = ops::couple(std::move(stream), branch);
    }
    return z;
  });
  score(y).backward();
  EXPECT_EQ(bits_of(f), bits);
  EXPECT_EQ(bits_of(parameter), parameter_bits);
}

// --- A block inside a branch -----------------------------------------------------------------------------------------

TEST_F(GuardTest, ABlockInsideABranchKeepsItsOwnPolicy) {
  std::vector<Moment> outside;
  std::vector<Moment> inside;
  const auto note_in = [](std::vector<Moment>& moments) { return [&](Moment moment) { moments.push_back(moment); }; };
  const Tensor x = random_parameter(image, 1);
  const Tensor y = in_block(memory::reversible(), x, [&](Tensor z) {
    Tensor f = conv(watch(ops::relu(z), note_in(outside)), 1);
    f = in_block(memory::store_all(), std::move(f),
                 [&](Tensor g) { return conv(watch(ops::relu(g), note_in(inside)), 2); });
    return ops::couple(ops::relu(std::move(z)), std::move(f));
  });
  score(y).backward();
  EXPECT_EQ(outside, (std::vector<Moment>{Moment::First, Moment::Replay, Moment::Backward}));
  EXPECT_EQ(inside, (std::vector<Moment>{Moment::First, Moment::Backward}));
}

}  // namespace
}  // namespace palimpsest::test
