// Things that must not go wrong quietly: shapes beyond counting, mixed parameters, steps that disturb one another, a
// machine that rations addresses, threads or stacks.

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest::test {
namespace {

TEST(ShapeLimitTest, MoreElementsThanCanBeCountedAreRefused) {
  constexpr std::int64_t large = std::int64_t{1} << 31;
  EXPECT_THROW((Shape{large, large, 4}), ShapeError);
  EXPECT_THROW((Shape{large, 1, large}.with_channels(4)), ShapeError);
  EXPECT_EQ((Shape{large, 1 << 25}).count(), std::int64_t{1} << 56);
}

TEST(SgdTest, ParametersOfDifferentTypesOrDevicesAreRefused) {
  const Tensor single = Tensor::zeros({4}, Dtype::Float32).requires_grad();
  const Tensor twice = Tensor::zeros({4}, Dtype::Float64).requires_grad();
  const Tensor meta = Tensor::zeros({4}, Dtype::Float32, meta_device()).requires_grad();
  EXPECT_THROW(nn::Sgd({{"a", single}, {"b", twice}}, {}), DtypeError);
  EXPECT_THROW(nn::Sgd({{"a", single}, {"b", meta}}, {}), DeviceError);
}

TEST(StepIsolationTest, AnExceptionUnderNoGradLeavesTheRecordedStepAlone) {
  const Tensor x = Tensor::from_vector<float>({1}, {2}).requires_grad();
  const Tensor loss = ops::relu(ops::add(x, x));
  const auto block = std::make_shared<BlockInfo>(BlockInfo{"evaluation", nullptr});
  EXPECT_THROW(
      {
        const NoGrad no_grad;
        const BlockScope scope(block, {});
        ops::add(x, Tensor::zeros({2}, Dtype::Float32));
      },
      ShapeError);
  loss.backward();
  EXPECT_EQ(x.grad().to_vector<float>(), std::vector<float>{2});
}

TEST(GradientOwnershipTest, LeavesDoNotShareTheirGradients) {
  const Tensor a = Tensor::from_vector<float>({1}, {2}).requires_grad();
  const Tensor b = Tensor::from_vector<float>({1}, {3}).requires_grad();
  ops::add(a, b).backward();
  EXPECT_NE(a.grad().view().data, b.grad().view().data);
}

class Voiceless : public Op {
 public:
  std::string_view name() const override { return "voiceless"; }
  Cost cost() const override { return Cost::Free; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec>) const override { return {}; }
  void forward(ForwardContext&) override {}
  Needs needs() const override { return {}; }
  void backward(BackwardContext&) override {}
};

TEST(UserOpTest, AnOpWithoutOutputsIsRefused) {
  EXPECT_THROW(apply_single(std::make_unique<Voiceless>(), {Tensor::zeros({1}, Dtype::Float32)}), ValueError);
}

/// The place of the largest of a row, which has no gradient: (N, C) gives (N).
class Argmax : public Op {
 public:
  std::string_view name() const override { return "argmax"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    return {{{inputs[0].shape.n()}, Dtype::Int32}};
  }
  void forward(ForwardContext& io) override {
    const std::int64_t classes = io.input(0).shape.c();
    for (std::int64_t row = 0; row < io.input(0).shape.n(); ++row) {
      const float* const x = io.input(0).as<float>() + row * classes;
      io.output().as<std::int32_t>()[row] = static_cast<std::int32_t>(std::max_element(x, x + classes) - x);
    }
  }
  void backward(BackwardContext&) override { ADD_FAILURE() << "whole numbers have no gradient"; }
};

TEST(UserOpTest, WholeNumbersWantNoGradient) {
  const Tensor x = Tensor::from_vector<float>({2, 2}, {1, 3, 2, 0}).requires_grad();
  const Tensor y = ops::scale(x, 2);
  const Tensor labels = apply_single(std::make_unique<Argmax>(), {y});
  EXPECT_FALSE(labels.requires_grad_on());
  EXPECT_EQ(labels.to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 0}));
  ops::cross_entropy(y, labels).backward();
  EXPECT_TRUE(x.grad());
}

/// Twice its input, by a backward that is wrong in a way of the caller's.
class Twice : public Op {
 public:
  using Backward = std::function<void(BackwardContext& io)>;
  explicit Twice(Backward backward) : backward_(std::move(backward)) {}

  std::string_view name() const override { return "twice"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }
  void forward(ForwardContext& io) override { *io.output().as<float>() = 2 * *io.input(0).as<float>(); }
  void backward(BackwardContext& io) override { backward_(io); }

 private:
  Backward backward_;
};

/// The message of the StateError that backward of this op fails with; it must have left no gradient.
std::string failure_of(const Twice::Backward& backward) {
  const Tensor x = Tensor::from_vector<float>({1}, {2}).requires_grad();
  const Tensor loss = apply_single(std::make_unique<Twice>(backward), {ops::relu(x)});
  try {
    loss.backward();
  } catch (const StateError& error) {
    EXPECT_FALSE(x.grad());
    return error.what();
  }
  return "none";
}

TEST(UserOpTest, ReadingWhatNeedsDoesNotNameIsAnError) {
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.input(0); }),
            "[twice] backward reads input 0 (1), which its needs() does not name");
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.output(); }),
            "[twice] backward reads output 0 (1), which its needs() does not name");
}

TEST(UserOpTest, AGradientThatIsNotWrittenIsAnErrorInEveryStep) {
  for (int step = 0; step < 2; ++step) {
    EXPECT_EQ(failure_of([](BackwardContext&) {}),
              "[twice] backward has not written the gradient of input 0 (1), which wants one");
  }
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.pass_through(0); }), "none");
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.grad_input_over(0); }), "none");
}

TEST(UserOpTest, AGradientThatWasAskedForAndIsNotWrittenIsAnError) {
  const std::string said = "[twice] backward has not written the gradient of input 0 (1), which wants one";
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.grad_input(0); }), said);
  EXPECT_EQ(failure_of([](BackwardContext& io) {
              io.grad_input(0);
              io.pass_through(0);
            }),
            said);
  EXPECT_EQ(failure_of([](BackwardContext& io) {
              *io.grad_input(0).view.as<float>() = std::numeric_limits<float>::quiet_NaN();
            }),
            "none");
}

TEST(UserOpTest, PlacesThatTheOpDoesNotHaveAreErrors) {
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.input(3); }), "[twice] backward asks for input 3, it has 1");
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.output(2); }), "[twice] backward asks for output 2, it has 1");
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.grad_output(1); }), "[twice] backward asks for output 1, it has 1");
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.wants(7); }), "[twice] backward asks for input 7, it has 1");
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.grad_input(3); }), "[twice] backward asks for input 3, it has 1");
  EXPECT_EQ(failure_of([](BackwardContext& io) { io.pass_through(0, 2); }),
            "[twice] backward asks for output 2, it has 1");
}

/// The sum of each of two inputs' elements and of a part of them, as two outputs; backward is the caller's.
class Sums : public Op {
 public:
  explicit Sums(Twice::Backward backward) : backward_(std::move(backward)) {}

  std::string_view name() const override { return "sums"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {.inputs = bits(0)}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec>) const override {
    return {{{1}, Dtype::Float32}, {{1}, Dtype::Float32}};
  }
  void forward(ForwardContext& io) override {
    for (int o : {0, 1}) *io.output(o).as<float>() = *io.input(0).as<float>() + *io.input(1).as<float>();
  }
  void backward(BackwardContext& io) override { backward_(io); }

 private:
  Twice::Backward backward_;
};

std::string failure_of_sums(const Twice::Backward& backward) {
  const Tensor x = Tensor::from_vector<float>({4}, {1, 2, 3, 4}).requires_grad();
  const Tensor frozen = Tensor::from_vector<float>({1}, {5});
  const std::vector<Tensor> y = palimpsest::apply(std::make_unique<Sums>(backward), {x, frozen});
  try {
    y[0].backward();
  } catch (const StateError& error) {
    EXPECT_FALSE(x.grad());
    EXPECT_FALSE(frozen.grad());
    return error.what();
  }
  return "none";
}

TEST(UserOpTest, WhatABackwardMayNotDoIsAnErrorThatNamesTheOp) {
  EXPECT_EQ(failure_of_sums([](BackwardContext& io) {
              for (int i = 0; i < 4; ++i) io.grad_input(0).view.as<float>()[i] = 1;
            }),
            "none");
  EXPECT_EQ(failure_of_sums([](BackwardContext& io) { *io.grad_input(0).view.as<float>() = 1; }),
            "[sums] backward has not written the gradient of input 0 (4), which wants one");
  EXPECT_EQ(failure_of_sums([](BackwardContext& io) { *io.grad_input(1).view.as<float>() = 1; }),
            "[sums] backward writes the gradient of input 1 (1), which wants none: wants() says so");
  EXPECT_EQ(failure_of_sums([](BackwardContext& io) { io.pass_through(0); }),
            "[sums] backward passes the gradient of output 0 (1) to input 0 (4)");
  EXPECT_EQ(failure_of_sums([](BackwardContext& io) {
              io.done_with_input(0);
              io.input(0);
            }),
            "[sums] backward was done with input 0");
  EXPECT_EQ(failure_of_sums([](BackwardContext& io) {
              io.done_with_input(0);
              io.done_with_input(0);
            }),
            "[sums] backward was done with input 0");
}

TEST(UserOpTest, AGradientThatNothingHasFlowedIntoIsNotPassedOn) {
  const auto backward = [](BackwardContext& io) { io.pass_through(0, 1); };
  const Tensor x = Tensor::from_vector<float>({1}, {1}).requires_grad();
  const std::vector<Tensor> y = palimpsest::apply(std::make_unique<Sums>(backward), {x, x});
  EXPECT_THROW(y[0].backward(), StateError);
}

TEST(CountCorrectTest, RowsThatHoldNaNAreWrong) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor logits = Tensor::from_vector<float>({3, 2}, {nan, nan, 1, nan, 1, 0});
  const Tensor labels = Tensor::from_vector<std::int32_t>({3}, {0, 0, 0});
  EXPECT_EQ(ops::count_correct(logits, labels), 1);
}

/// Ends the process with 0 if `body` holds while the address space is limited to what is in use plus `bytes`.
template <class Body>
[[noreturn]] void exit_under_address_limit(std::size_t bytes, const Body& body) {
  const rlimit limit = {bytes, bytes};
  std::_Exit(setrlimit(RLIMIT_AS, &limit) == 0 && body() ? 0 : 1);
}

constexpr bool has_sanitizer =
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    true;
#else
    false;
#endif

TEST(AddressLimitDeathTest, TensorsAreMadeWhereAddressesAreRationed) {
  if (has_sanitizer) GTEST_SKIP() << "sanitizers take terabytes of addresses";
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto body = [] {
    std::vector<Tensor> held;
    for (const std::int64_t elements : {1000, 1 << 20, 1 << 27, 1 << 27, 1 << 27}) {
      held.push_back(Tensor::zeros({elements}, Dtype::Float32));
    }
    return held.back().view().as<float>()[(1 << 27) - 1] == 0;
  };
  EXPECT_EXIT(exit_under_address_limit(std::size_t{6} << 30, body), ::testing::ExitedWithCode(0), "");
}

TEST(ThreadLimitDeathTest, ThreadsThatCannotBeStartedAreAnError) {
  if (has_sanitizer) GTEST_SKIP() << "sanitizers take terabytes of addresses";
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto body = [] {
    try {
      set_thread_count(256);  // with a stack of 8 MiB each
    } catch (const Error&) {
      return thread_count() < 256;
    }
    return false;
  };
  EXPECT_EXIT(exit_under_address_limit(std::size_t{1} << 30, body), ::testing::ExitedWithCode(0), "");
}

/// The message of a fused step in a thread with a stack of so many bytes.
std::string said_with_stack(std::size_t bytes) {
  struct Call {
    std::string said;
    static void* run(void* call) {
      try {
        nn::Init init(1, Device::Cpu, Dtype::Float64);
        const nn::BatchNorm2d norm(init, 64, {.relu = true});
        const nn::Conv2d conv(init, 64, 16, {.padding = ops::Padding::all(1)});
        const Tensor y = conv(norm(Tensor::zeros({4, 64, 16, 16}, Dtype::Float64)));
        weighted_sum(y, Tensor::zeros(y.shape(), Dtype::Float64)).backward();
        static_cast<Call*>(call)->said = "nothing";
      } catch (const Error& error) {
        static_cast<Call*>(call)->said = error.what();
      }
      return nullptr;
    }
  } call;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  EXPECT_EQ(pthread_attr_setstacksize(&attributes, bytes), 0);
  pthread_t thread{};
  EXPECT_EQ(pthread_create(&thread, &attributes, Call::run, &call), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  return call.said;
}

TEST(StackTest, AThreadWithTooLittleForConvolutionsIsToldSo) {
  const std::string said = said_with_stack(256 << 10);
  EXPECT_NE(said.find("KiB of stack left of 256 KiB, expected at least 880 KiB for convolutions"), std::string::npos)
      << said;
  EXPECT_EQ(said_with_stack(has_sanitizer ? 8 << 20 : 1 << 20), "nothing");
}

}  // namespace
}  // namespace palimpsest::test
