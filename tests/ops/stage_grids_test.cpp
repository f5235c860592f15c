// Grids that are chosen from the magnitudes of streams (ops::StageGrids).

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/core/elementwise.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/stage_grids.hpp>
#include "tests/support/op_support.hpp"
#include "tests/support/policies.hpp"
#include "tests/support/tape_support.hpp"
#include "tests/support/training.hpp"

namespace palimpsest::test {
namespace {

using StageGridsTest = TapeTest;

/// One call of a model of one stage in training, with sums of that magnitude at most. Returns the bits it worked on.
template <class T>
int call(
    const ops::StageGrids& grids, T magnitude, const std::function<void()>& then = [] {}) {
  const Tensor x = from_vector<T>({3}, {0, magnitude, -magnitude / 2}).requires_grad();
  ops::OnStageGrids on = ops::round_to_stage_grids(ops::relu(x), grids, true);
  const BlockScope step(nullptr, std::array{on.x});
  const Tensor y = ops::couple(on.x, from_vector<T>({3}, {0, 0, 0}), on.grids[0]);
  then();
  return on.grids[0].bits;
}

template <class T>
std::vector<int> calls(const std::vector<T>& magnitudes) {
  const ops::StageGrids grids = ops::StageGrids::make(1, dtype_of<T>, device());
  std::vector<int> bits;
  for (const T magnitude : magnitudes) bits.push_back(call<T>(grids, magnitude));
  return bits;
}

TEST_F(StageGridsTest, TheFirstMagnitudesChooseAndLaterOnesOnlyCoarsen) {
  // 5 < 2^3: 22 - 3 bits, whose range is 32.
  EXPECT_EQ(calls<float>({5, 5, 31, 32, 1, 0.5F, 200}), (std::vector{16, 19, 19, 19, 16, 16, 16}));
  EXPECT_EQ(calls<float>({4, 4}), (std::vector{16, 19})) << "4 is below 2^3, not below 2^2";
  EXPECT_EQ(calls<float>({3.5F, 3.5F}), (std::vector{16, 20}));
  EXPECT_EQ(calls<float>({1000, 1000}), (std::vector{16, 12})) << "beyond the range of the first step's grid";
  EXPECT_EQ(calls<double>({5, 5, 16, 32}), (std::vector{16, 48, 48, 48}));
}

TEST_F(StageGridsTest, TheGridIsOneThatTheTypeHolds) {
  EXPECT_EQ(calls<float>({0.01F, 0.01F}), (std::vector{16, 23}));
  EXPECT_EQ(calls<float>({1e30F, 1}), (std::vector{16, 0}));
}

TEST_F(StageGridsTest, WhatIsNoMagnitudeChangesNothing) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(calls<float>({infinity, 0, 5, infinity, 5}), (std::vector{16, 16, 16, 19, 19}));
  EXPECT_EQ(calls<float>({std::numeric_limits<float>::quiet_NaN(), 5, 1}), (std::vector{16, 16, 19}));
}

std::vector<Bits> state_of(const ops::StageGrids& grids) { return {bits_of(grids.bits), bits_of(grids.largest)}; }

TEST_F(StageGridsTest, AStepThatFailsPutsThemBack) {
  const ops::StageGrids grids = ops::StageGrids::make(1, Dtype::Float32, device());
  call<float>(grids, 5);
  const std::vector<Bits> before = state_of(grids);
  EXPECT_THROW(call<float>(grids, 100, [] { throw ValueError("no"); }), ValueError);
  EXPECT_TRUE(state_of(grids) == before);
  EXPECT_EQ(call<float>(grids, 1), 19);
}

TEST_F(StageGridsTest, WhatIsNotRecordedAndWhatIsNotTrainingLeavesThemAlone) {
  const ops::StageGrids grids = ops::StageGrids::make(1, Dtype::Float32, device());
  call<float>(grids, 5);
  const std::vector<Bits> before = state_of(grids);
  {
    const NoGrad no_grad;
    const ops::OnStageGrids on = ops::round_to_stage_grids(from_vector<float>({1}, {300}), grids, false);
    ops::couple(on.x, on.x, on.grids[0]);
    EXPECT_EQ(on.grids[0].bits, 16) << "nothing is chosen yet";
  }
  EXPECT_TRUE(state_of(grids) == before);
}

TEST_F(StageGridsTest, BuffersThatDoNotFitAreRefused) {
  const Tensor x = zeros({2}).requires_grad();
  const auto round = [&](const ops::StageGrids& grids) { ops::round_to_stage_grids(x, grids, true); };
  EXPECT_THROW(round(ops::StageGrids::make(1, Dtype::Float64, device())), DtypeError);
  EXPECT_THROW(round({zeros({2}, Dtype::Int32), zeros({3})}), ShapeError);
  EXPECT_THROW(round({zeros({2}), zeros({2})}), DtypeError);
  EXPECT_THROW(ops::couple(x, x, ops::Grid(4, zeros({2}), 2)), ValueError);
  EXPECT_THROW(ops::couple(x, x, ops::Grid(4, zeros({2}, Dtype::Float64), 0)), DtypeError);
}

// --- Models ----------------------------------------------------------------------------------------------------------

Training choosing(const PolicyPtr& policy) {
  nn::ResidualOptions spec = revnet_spec({2, 2});
  spec.chooses_grid = true;
  Training training = training_of<nn::RevNet>(spec, nn::Init(5, device()), two_images());
  training.model().set_memory(policy);
  return training;
}

Tensor buffer(Training& training, const std::string& wanted) {
  for (const auto& [name, tensor] : training.model().buffers()) {
    if (name == wanted) return tensor;
  }
  throw ValueError(wanted);
}

std::vector<std::int32_t> grids_of(Training& training) { return buffer(training, "grid").to_vector<std::int32_t>(); }

/// Two steps, then streams a thousand times as large for three more.
std::vector<std::vector<std::int32_t>> train_and_grow(Training& training, std::vector<std::size_t>& kept) {
  std::vector<std::vector<std::int32_t>> grids;
  for (int step = 0; step < 5; ++step) {
    for (const auto& [name, parameter] : training.model().parameters()) {
      if (step != 2 || !name.ends_with("norm2.weight")) continue;
      fill(parameter.mutable_view().data, 1000, parameter.shape().count(), parameter.dtype(), device());
    }
    training.step([&] {
      const std::shared_ptr<Tape> tape = Tape::current();
      kept.push_back(tape->unsolvable());
    });
    grids.push_back(grids_of(training));
  }
  return grids;
}

TEST_F(StageGridsTest, GridsAndBitsAreTheSameUnderEveryPolicy) {
  Training stored = choosing(memory::store_all());
  std::vector<std::size_t> kept;
  const auto grids = train_and_grow(stored, kept);
  EXPECT_EQ(grids[0], (std::vector<std::int32_t>{-1, -1}));
  EXPECT_GT(grids[1][0], 16);
  EXPECT_GT(grids[1][1], 16);
  EXPECT_EQ(grids[2], grids[1]) << "the step in which a stream leaves the range is taken on the grid it has";
  EXPECT_LT(grids[3][0], grids[1][0]);
  EXPECT_LT(grids[3][1], grids[1][1]);
  for (const PolicyPtr& policy : all_policies()) {
    Training training = choosing(policy);
    EXPECT_EQ(train_and_grow(training, kept), grids) << policy->name();
    EXPECT_TRUE(training.state() == stored.state()) << policy->name();
  }
}

TEST_F(StageGridsTest, AStreamIsKeptInTheStepInWhichItLeavesTheRangeAndSolvedForOnTheNextGrid) {
  Training training = choosing(memory::reversible());
  std::vector<std::size_t> kept;
  train_and_grow(training, kept);
  if (device() == Device::Cuda) {
    ASSERT_EQ(kept.size(), 6U) << "one step is taken again";
    kept.erase(kept.begin() + 2);
  }
  EXPECT_EQ(kept[1], 0U);
  EXPECT_GT(kept[2], 0U);
  EXPECT_EQ(kept[4], 0U);
}

TEST_F(StageGridsTest, TheStreamsThatAreSolvedForAreTheVeryOnesOnOneThreadAndTwo) {
  std::vector<std::string> digests;
  for (const int threads : {1, 2}) {
    set_thread_count(threads);
    const VerifyScope verify(Verify::All);
    Training training = choosing(memory::reversible());
    std::vector<std::size_t> kept;
    EXPECT_NO_THROW(train_and_grow(training, kept));
    digests.push_back(training.digest());
  }
  EXPECT_EQ(digests[0], digests[1]);
}

TEST_F(StageGridsTest, ARunGoesOnFromACheckpoint) {
  Training whole = choosing(memory::reversible());
  whole.step();
  Training resumed = choosing(memory::checkpoint());
  nn::assign_by_name(resumed.model().parameters(), whole.model().parameters());
  nn::assign_by_name(resumed.model().buffers(), whole.model().buffers());
  resumed.sgd().set_state(whole.sgd().state());
  for (int step = 0; step < 2; ++step) {
    whole.step();
    resumed.step();
  }
  EXPECT_NE(grids_of(whole)[0], -1);
  EXPECT_EQ(resumed.digest(), whole.digest());
}

TEST_F(StageGridsTest, AGridIsGivenOrChosen) {
  nn::ResidualOptions spec = revnet_spec({2, 2}, 16);
  spec.chooses_grid = true;
  EXPECT_THROW(nn::RevNet(spec, nn::Init(1)), ValueError);
}

}  // namespace
}  // namespace palimpsest::test
