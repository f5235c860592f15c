// Things that only the emulator can show: kernels whose threads run in another order, a card of a fixed size, and the
// mistakes that a card forgives.

#include <gtest/gtest.h>

#include <string>

#include <palimpsest/core/cuda/device.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "cuda_runtime.h"
#include "tests/ops/norm_conv_case.hpp"
#include "tests/support/op_support.hpp"
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

// --- The order of threads --------------------------------------------------------------------------------------------

class EmulatorOrderTest : public ::testing::TestWithParam<OpCase> {
 protected:
  ~EmulatorOrderTest() override { cuda_emulator::set_order(cuda_emulator::Order::Ascending); }
};

INSTANTIATE_TEST_SUITE_P(Emulator, EmulatorOrderTest, ::testing::ValuesIn(op_cases()), case_name<OpCase>);

TEST_P(EmulatorOrderTest, DoesNotChangeABit) {
  const auto run = [](cuda_emulator::Order order) {
    cuda_emulator::set_order(order);
    return run_case<float>(GetParam(), nullptr, uniform, Device::Cuda);
  };
  const OpOutcome<float> expected = run(cuda_emulator::Order::Ascending);
  expect_same_bits(run(cuda_emulator::Order::Descending), expected);
}

TEST(EmulatorTest, FusedConvolutionsInManyChunksDoNotDependOnTheOrderOfThreads) {
  for (NormConvShape shape : {on_rows(200, {33, 5, 130}, 7), on_images(4, 5, {12, 7}, 6)}) {
    shape.g.products.column_bytes = 1;
    const NormConvCase<float> tested(shape, Numbers::Real, Wanted::Some);
    const auto run = [&](cuda_emulator::Order order) {
      cuda_emulator::set_order(order);
      return tested.run(cuda_norm_conv_kernels<float>());
    };
    const auto expected = run(cuda_emulator::Order::Ascending);
    const auto results = run(cuda_emulator::Order::Descending);
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_EQ(results[i].values, expected[i].values) << results[i].what;
  }
  cuda_emulator::set_order(cuda_emulator::Order::Ascending);
}

// --- A card of a fixed size ------------------------------------------------------------------------------------------

/// Sets the card's memory for as long as it lives, beginning with nothing cached.
class Card {
 public:
  explicit Card(std::size_t bytes) {
    allocator(Device::Cuda).release_cached();
    cuda_emulator::set_memory(bytes);
  }
  ~Card() { cuda_emulator::set_memory(std::size_t{4} << 30); }
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;
};

constexpr std::size_t mebibyte = std::size_t{1} << 20;

TEST(EmulatorTest, AnAllocationBeyondTheCardIsRefusedAndTheNextSmallerOneIsNot) {
  const Card card(64 * mebibyte);
  const Buffer most(Device::Cuda, 40 * mebibyte, Tag::Data);
  const std::string message =
      message_of<OutOfMemory>([] { const Buffer more(Device::Cuda, 40 * mebibyte, Tag::Workspace); });
  EXPECT_NE(message.find("out of memory on cuda: 40.0 MiB for workspace"), std::string::npos) << message;
  EXPECT_NE(message.find("the device has no more"), std::string::npos) << message;
  EXPECT_NO_THROW(Buffer(Device::Cuda, 10 * mebibyte, Tag::Workspace));
}

TEST(EmulatorTest, WhatIsCachedIsGivenBackBeforeAnAllocationFails) {
  const Card card(64 * mebibyte);
  { const Buffer freed(Device::Cuda, 40 * mebibyte, Tag::Workspace); }
  EXPECT_NO_THROW(Buffer(Device::Cuda, 40 * mebibyte, Tag::Activation));
}

TEST(EmulatorTest, AStepThatTheCardCannotHoldLeavesTheModelAloneAndAThriftierOneGoesOn) {
  nn::DenseNetOptions spec;
  spec.layers = {24};
  spec.growth_rate = 4;
  spec.stem_channels = 96;  // much to concatenate and to normalise, little to multiply
  nn::DenseNet model(spec, nn::Init(1, Device::Cuda));
  nn::Sgd sgd(model.parameters(), {});
  const Tensor images = Tensor::zeros({8, 3, 16, 16}, Dtype::Float32, Device::Cuda);
  const Tensor labels = Tensor::zeros({8}, Dtype::Int32, Device::Cuda);
  const auto step = [&](const PolicyPtr& policy) {
    model.set_memory(policy);
    sgd.zero_grad();
    ops::cross_entropy(model(images), labels).backward();
    sgd.step();
  };
  const auto reserved_by = [&](const PolicyPtr& policy) {
    allocator(Device::Cuda).release_cached();
    allocator(Device::Cuda).reset_peak();
    step(policy);
    return allocator(Device::Cuda).stats().peak_reserved;
  };
  const std::size_t thrifty = reserved_by(memory::shared());
  reserved_by(memory::store_all());
  const std::size_t all = allocator(Device::Cuda).stats().peak;
  ASSERT_LT(thrifty + mebibyte, all);
  const std::string before = model.state_digest();
  const Card card(thrifty + mebibyte);
  EXPECT_THROW(step(memory::store_all()), OutOfMemory);
  EXPECT_EQ(model.state_digest(), before);
  step(memory::shared());
  EXPECT_NE(model.state_digest(), before);
}

// --- Mistakes --------------------------------------------------------------------------------------------------------

void barrier_for_some(int threads) {
  if (static_cast<int>(threadIdx.x) < threads) __syncthreads();
}

constexpr cuda::Geometry one_block(unsigned threads) { return {dim3(1), dim3(threads)}; }

TEST(EmulatorDeathTest, ABarrierThatSomeDoNotReach) {
  PALIMPSEST_LAUNCH(one_block(64), barrier_for_some, 64);
  EXPECT_DEATH(PALIMPSEST_LAUNCH(one_block(64), barrier_for_some, 63), "not all threads of a block reach a barrier");
}

TEST(EmulatorDeathTest, TheHostInDeviceMemory) {
  const Tensor x = Tensor::zeros({8}, Dtype::Float32, Device::Cuda);
  volatile float* const address = x.mutable_view().as<float>();
  EXPECT_DEATH(static_cast<void>(*address), "");
  EXPECT_DEATH(*address = 1, "");
}

/// The identity, whose kernel asks for more threads than a block may have.
class TooWide : public Op {
 public:
  std::string_view name() const override { return "too_wide"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }
  void forward(ForwardContext&) override { PALIMPSEST_LAUNCH(one_block(1025), barrier_for_some, 0); }
  void backward(BackwardContext&) override {}
};

TEST(EmulatorTest, ALaunchThatFailsNamesTheOpItsInputsTheKernelAndItsGeometry) {
  const Tensor x = Tensor::zeros({2, 3}, Dtype::Float32, Device::Cuda);
  const std::string message =
      message_of<DeviceError>([&] { apply_single(std::make_unique<TooWide>(), {ops::relu(x)}); });
  EXPECT_EQ(message,
            "[too_wide] on inputs (2, 3): kernel barrier_for_some on 1 x 1 x 1 blocks of 1025 x 1 threads failed: "
            "invalid configuration argument");
}

}  // namespace
}  // namespace palimpsest::test
