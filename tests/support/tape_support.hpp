#pragma once

// Shared by the tests of the tape: a fixture that finds leaks and stale reads, comparison bit for bit, an op that
// tells when it runs, and a block made from a function.

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/block.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest::test {

/// Released memory is filled with NaN, so that a stale read shows, and no byte may outlive a test. Tensors are tiny, so
/// one thread is faster than many.
class TapeTest : public ::testing::Test {
 protected:
  // Not in the constructor, which runs for skipped tests, too.
  void SetUp() override {
    baseline_ = live_bytes();
    test_allocator().set_poison(true);
    set_thread_count(1);
  }
  void TearDown() override {
    EXPECT_EQ(live_bytes(), baseline_) << "bytes are still leased after the test";
    EXPECT_NO_THROW(synchronize(device())) << "a fault that no read has reported";
    test_allocator().set_poison(false);
    test_allocator().set_limit(0);
    set_thread_count(threads_);
  }

  std::size_t baseline_ = 0;
  const int threads_ = thread_count();
};

using Bits = std::vector<std::byte>;

/// The bytes of a tensor; none for an empty one. Every comparison here compares them.
inline Bits bits_of(const Tensor& tensor) {
  if (!tensor) return {};
  Bits bits(tensor.value().bytes());
  copy_bytes(bits.data(), Device::Cpu, tensor.view().data, tensor.device(), bits.size());
  return bits;
}

/// Uniform in [-1, 1), a function of the seed.
inline Tensor random_tensor(const Shape& shape, std::uint64_t seed, Tag tag = Tag::Data) {
  Random random(seed, 77);
  std::vector<float> values(static_cast<std::size_t>(shape.count()));
  for (float& value : values) value = static_cast<float>(2 * random.uniform() - 1);
  return from_vector(shape, values, tag);
}

inline Tensor random_parameter(const Shape& shape, std::uint64_t seed) {
  return Tensor(random_tensor(shape, seed, Tag::Parameter)).requires_grad();
}

/// When an op runs.
enum class Moment { First, Replay, Backward };
using Tell = std::function<void(Moment)>;

/// The identity, which tells when it runs; an exception of the callback is the op's. Works in the memory of its input
/// and passes its gradient through, so that it adds no allocation where it can.
class Watch : public Op {
 public:
  explicit Watch(Tell tell, Cost cost = Cost::Cheap) : tell_(std::move(tell)), cost_(cost) {}

  std::string_view name() const override { return "watch"; }
  Cost cost() const override { return cost_; }
  int overwritable_input() const override { return 0; }
  Needs needs() const override { return {}; }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return {inputs[0]}; }

  void forward(ForwardContext& io) override {
    tell_(std::exchange(ran_, true) ? Moment::Replay : Moment::First);
    const View& x = io.input(0);
    const auto bytes = static_cast<std::size_t>(x.shape.count()) * size_of(x.dtype);
    if (x.data != io.output().data) copy_bytes(io.output().data, io.device(), x.data, x.device, bytes);
  }

  void backward(BackwardContext& io) override {
    tell_(Moment::Backward);
    io.pass_through(0);
  }

 private:
  Tell tell_;
  Cost cost_;
  bool ran_ = false;
};

inline Tensor watch(Tensor x, Tell tell, Cost cost = Cost::Cheap) {
  std::vector<Tensor> inputs;
  inputs.push_back(std::move(x));
  return apply_single(std::make_unique<Watch>(std::move(tell), cost), std::move(inputs));
}

/// A block whose forward is a function.
class AnyBlock : public nn::Block<std::vector<Tensor>(std::vector<Tensor>)> {
 public:
  using Body = std::function<std::vector<Tensor>(std::vector<Tensor>)>;
  AnyBlock(const PolicyPtr& policy, Body body) : body_(std::move(body)) { set_memory(policy); }

 protected:
  std::vector<Tensor> forward(std::vector<Tensor> inputs) override { return body_(std::move(inputs)); }

 private:
  Body body_;
};

/// Runs `body` on one tensor as a block under `policy`.
inline Tensor in_block(const PolicyPtr& policy, Tensor x, const std::function<Tensor(Tensor)>& body) {
  AnyBlock block(policy, [&](std::vector<Tensor> inputs) {
    Tensor only = std::move(inputs[0]);
    inputs.clear();
    return std::vector<Tensor>{body(std::move(only))};
  });
  std::vector<Tensor> inputs;
  inputs.push_back(std::move(x));
  return std::move(block(std::move(inputs)).front());
}

/// The exception's message if `action` throws an E, otherwise a failure.
template <class E, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

}  // namespace palimpsest::test
