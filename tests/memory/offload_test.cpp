// Offloading: bytes leave the device's memory beside the computation and come back as they were; what goes wrong on the
// way is an error of the step, and when memory is taken and returned follows from the recorded order alone.

#include <palimpsest/memory/offload.hpp>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include <palimpsest/memory/request.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pad_channels.hpp>
#include "tests/memory/offload_support.hpp"
#include "tests/support/file_limit.hpp"

namespace palimpsest::test {
namespace {

namespace fs = std::filesystem;

// --- The same bits ---------------------------------------------------------------------------------------------------

TEST_F(OffloadTest, GivesTheBitsOfStoreAll) {
  for (const MakeTraining& make : {small_densenet(), small_revnet()})
    EXPECT_EQ(digest_after(3, make, everything()), digest_after(3, make, memory::store_all()));
}

TEST_F(OffloadTest, GivesTheBitsOfStoreAllOnTwoThreads) {
  const std::string expected = digest_after(3, small_densenet(), memory::store_all());
  set_thread_count(2);
  EXPECT_EQ(digest_after(3, small_densenet(), everything()), expected);
}

TEST_F(OffloadTest, WhatAUserChangesOnTheWayIsNotWhatComesBack) {
  // A detached tensor shares the bytes; they are saved before the user can write to them.
  const auto gradient = [&](bool change) {
    const Tensor x = random_parameter({1, 2, 8, 8}, 1);
    Tensor shared;
    const Tensor y = in_block(everything(), x, [&](Tensor z) {
      Tensor f = ops::relu(std::move(z));
      shared = f.detach();
      return ops::add(ops::relu(std::move(f)), random_tensor({1, 2, 8, 8}, 2));
    });
    if (change) shared.assign(zeros({1, 2, 8, 8}));
    score(y).backward();
    return bits_of(x.grad());
  };
  EXPECT_TRUE(gradient(true) == gradient(false));
}

TEST_F(OffloadTest, AChangeInPlaceIsKnownWhereverTheBytesAre) {
  const auto step = [&](bool before_the_product) {
    const Tensor x = random_parameter({4, 8}, 1);
    const Tensor weight = random_parameter({3, 8}, 2);
    const Tensor bias = random_parameter({3}, 3);
    const Tensor y = in_block(everything(), x, [&](Tensor z) {
      Tensor f = ops::scale(std::move(z), 2);  // its own backward reads nothing
      Tensor shared = f.detach();
      if (before_the_product) shared.assign(random_tensor({4, 8}, 4));
      Tensor product = ops::linear(f, weight, bias);
      if (!before_the_product) shared.assign(zeros({4, 8}));
      return product;  // f goes, and its bytes are moved away
    });
    ops::cross_entropy(y, Tensor::zeros({4}, Dtype::Int32, device())).backward();
    return bits_of(weight.grad());
  };
  EXPECT_NO_THROW(step(true));
  EXPECT_THROW(step(false), StateError);
}

TEST_F(OffloadTest, WhatTheUserHoldsCanBeReadThroughout) {
  const Tensor x = random_parameter({1, 2, 8, 8}, 1);
  Tensor held;
  const Tensor y = in_block(everything(), x, [&](Tensor z) {
    for (int i = 0; i < 6; ++i) {
      z = ops::relu(std::move(z));
      if (i == 2) held = z;
    }
    return z;
  });
  const Bits bits = bits_of(held);
  score(y).backward();
  EXPECT_TRUE(bits_of(held) == bits);
}

// --- Memory ----------------------------------------------------------------------------------------------------------

void expect_predicted(const MakeTraining& make, const PolicyPtr& policy) {
  const Peak measured = peak_of_second_step(make, policy);
  for (int i = 0; i < 3; ++i) {  // whatever the threads do meanwhile
    EXPECT_TRUE((peak_of_second_step(make, policy) == measured));
  }
  EXPECT_TRUE((peak_of_second_step(make, policy, meta_device()) == measured));
  EXPECT_GT(measured.out, 0U);
  const Peak stored = peak_of_second_step(make, memory::store_all());
  // Not of the whole: in a model as small as this, CUDA's bounded workspace is most of it.
  constexpr auto activation = static_cast<std::size_t>(Tag::Activation);
  EXPECT_LT(measured.by_tag[activation], stored.by_tag[activation] / 2);
}

TEST_F(OffloadTest, ThePeakOfADenseNetIsThePredictedOne) { expect_predicted(small_densenet(), everything()); }
TEST_F(OffloadTest, ThePeakOfARevNetIsThePredictedOne) { expect_predicted(small_revnet(), everything()); }

TEST_F(OffloadTest, TwoValuesAreOnTheirWayOutAndTwoOnTheirWayBack) {
  // After each relu, which reads its output in backward, an op tells how many values there are.
  constexpr std::size_t layers = 6;
  const Shape shape{1, 2, 8, 8};
  const std::size_t bytes = static_cast<std::size_t>(shape.count()) * sizeof(float);
  const Tensor x = random_parameter(shape, 1);
  std::vector<std::size_t> forward;
  std::vector<std::size_t> backward;
  const std::size_t before = live_activations();
  Tensor y = in_block(everything(), x, [&](Tensor z) {
    for (std::size_t i = 0; i < layers; ++i) {
      z = watch(ops::relu(std::move(z)), [&](Moment moment) {
        (moment == Moment::First ? forward : backward).push_back((live_activations() - before) / bytes);
      });
    }
    return z;
  });
  // The relu's output, which is on its way out, the one before it, and what the op writes.
  EXPECT_EQ(forward, (std::vector<std::size_t>{2, 3, 3, 3, 3, 3}));
  EXPECT_EQ(memory::offload_stats(device()).held, layers * bytes);
  const Tensor loss = score(y);
  y = {};
  const std::size_t head = live_activations() - before - 2 * bytes;  // two outputs have not left
  backward.clear();
  loss.backward();
  // The head's own values go with it, but for the loss; then two values are on their way, and at last one.
  ASSERT_EQ(backward.size(), layers);
  EXPECT_LE(backward[0], 2 + head / bytes);
  EXPECT_EQ(std::vector<std::size_t>(backward.begin() + 1, backward.end()), (std::vector<std::size_t>{2, 2, 2, 2, 1}));
}

/// Activations, in values, when each of six relus has run backwards, and the peak. With `aside` there are three more in
/// their midst, of values eight times as large, which nothing is made from.
std::pair<std::vector<std::size_t>, std::size_t> backward_of_chain(const PolicyPtr& policy, bool aside, Device where) {
  const Shape shape{1, 2, 8, 8};
  const std::size_t bytes = static_cast<std::size_t>(shape.count()) * sizeof(float);
  Allocator& memory = allocator(where);
  const auto live = [&] { return memory.stats().live_by_tag[static_cast<std::size_t>(Tag::Activation)]; };
  const std::size_t before = live();
  std::vector<std::size_t> alive;
  const Tensor x = !is_meta(where) ? random_parameter(shape, 1)
                                   : Tensor::empty(shape, Dtype::Float32, where, Tag::Parameter).requires_grad();
  const Tensor y = in_block(policy, x, [&](Tensor z) {
    for (int i = 0; i < 6; ++i) {
      z = watch(ops::relu(std::move(z)), [&](Moment moment) {
        if (moment == Moment::Backward) alive.push_back((live() - before) / bytes);
      });
      if (i != 2 || !aside) continue;
      Tensor large = ops::pad_channels(z, 0, 14);
      for (int k = 0; k < 3; ++k) large = ops::relu(std::move(large));
    }
    return z;
  });
  memory.reset_peak();
  ops::cross_entropy(ops::global_avg_pool(y), Tensor::zeros({1}, Dtype::Int32, where)).backward();
  return {alive, memory.stats().peak};
}

TEST_F(OffloadTest, NothingIsFetchedForWhatGetsNoGradient) {
  const auto chain = backward_of_chain(everything(), false, device());
  const auto branched = backward_of_chain(everything(), true, device());
  ASSERT_EQ(chain.first.size(), 6U);
  EXPECT_EQ(std::count(chain.first.begin() + 1, chain.first.end() - 1, chain.first[1]), 4);  // as many on their way
  EXPECT_EQ(branched, chain);
  EXPECT_EQ(backward_of_chain(everything(), true, meta_device()), branched);
}

TEST_F(OffloadTest, NothingGrowsAfterTheFirstStep) {
  Training training = small_densenet()(everything(), device());
  training.step();
  const memory::OffloadStats first = memory::offload_stats(device());
  EXPECT_EQ(first.held, 0U);
  EXPECT_GT(first.peak, 0U);
  EXPECT_GE(first.reserved, first.peak);
  for (int i = 0; i < 3; ++i) {
    training.step();
    const memory::OffloadStats later = memory::offload_stats(device());
    EXPECT_EQ(later.held, 0U);
    EXPECT_EQ(later.peak, first.peak);
    EXPECT_EQ(later.reserved, first.reserved);
  }
}

TEST_F(OffloadTest, SmallValuesStay) {
  Training training = small_revnet()(memory::offload(), device());  // none has 64 KiB
  const std::size_t held_before = memory::offload_stats(device()).held;
  const Tensor loss = training.forward();
  EXPECT_EQ(memory::offload_stats(device()).held, held_before);
}

TEST_F(OffloadTest, WhatNobodyWillReadDoesNotLeave) {
  const Tensor x = random_parameter({1, 2, 8, 8}, 1);
  const Tensor y = in_block(everything(), x, [&](Tensor z) {
    for (int i = 0; i < 4; ++i) z = ops::add(std::move(z), z);  // no gradient reads a sum or what it is of
    return z;
  });
  EXPECT_EQ(memory::offload_stats(device()).held, 0U);
}

// --- What goes wrong -------------------------------------------------------------------------------------------------

/// The descriptor of a file in `folder` that has no name.
int descriptor_in(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = fs::read_symlink(entry.path(), error);
    if (!error && target.starts_with(folder.string() + "/")) return std::stoi(entry.path().filename());
  }
  return -1;
}

std::size_t size_of_file(int descriptor) {
  struct stat status = {};
  EXPECT_EQ(::fstat(descriptor, &status), 0);
  return static_cast<std::size_t>(status.st_size);
}

/// Fails a step in `fail`, which is to leave all as it was, and goes on as if nothing had been.
template <class Fail>
void expect_clean_failure(const PolicyPtr& policy, const Fail& fail) {
  Training reference = small_densenet()(policy, device());
  Training training = small_densenet()(policy, device());
  reference.step();
  training.step();
  const std::string before = training.digest();
  const std::size_t live = live_bytes();
  fail(training);
  EXPECT_EQ(training.digest(), before);
  EXPECT_LE(live_bytes(), live);  // without the gradients
  EXPECT_EQ(memory::offload_stats(device()).held, 0U);
  reference.step();
  training.step();
  EXPECT_EQ(training.digest(), reference.digest());
}

TEST_F(OffloadTest, AFullDiskFailsTheStepAlone) {
  if (device() != Device::Cpu) GTEST_SKIP() << "the CPU's file";
  small_densenet()(everything(), device()).step();
  const std::size_t needed = size_of_file(descriptor_in(folder_));
  for (int part = 0; part < 8; ++part) {
    expect_clean_failure(everything(), [&](Training& training) {
      // The signal is left to its default, which ends the process.
      const testing::FileLimit limit(needed * static_cast<std::size_t>(part) / 8, SIG_DFL);
      const std::string message = message_of<OffloadError>([&] { training.step(); });
      EXPECT_NE(message.find("cannot write"), std::string::npos) << message;
      EXPECT_NE(message.find("File too large"), std::string::npos) << message;
      EXPECT_NE(message.find(folder_), std::string::npos) << message;
    });
  }
}

TEST_F(OffloadTest, AShortReadFailsTheStepAlone) {
  if (device() != Device::Cpu) GTEST_SKIP() << "the CPU's file";
  const fs::path other = folder_ / "other";  // with an empty file
  fs::create_directory(other);
  expect_clean_failure(everything(), [&](Training& training) {
    training.model().set_memory(memory::offload({.at_least = 0, .directory = other}));
    const Tensor loss = training.forward();
    const int file = descriptor_in(other);
    ASSERT_GE(file, 0);
    // A write behind the end makes the file longer again: all must be there first.
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (size_of_file(file) < memory::offload_stats(device()).held) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_EQ(::ftruncate(file, static_cast<off_t>(size_of_file(file) / 2)), 0);
    const std::string message = message_of<OffloadError>([&] { loss.backward(); });
    EXPECT_NE(message.find("cannot read"), std::string::npos) << message;
    EXPECT_NE(message.find("has become shorter"), std::string::npos) << message;
    training.model().set_memory(everything());
  });
  fs::remove(other);
}

TEST_F(OffloadTest, WhatCouldNotBeWrittenIsNeverRead) {
  if (device() != Device::Cpu) GTEST_SKIP() << "the CPU's file";
  // Between the failure and the operation that reports it, the user reads a tensor that is made from the lost bytes.
  const auto relu = [](Tensor z) { return ops::relu(std::move(z)); };
  const Tensor x = random_parameter({1, 2, 8, 8}, 1);
  const testing::FileLimit limit(0);
  Tensor source = in_block(everything(), x, relu);
  const Tensor held = in_block(memory::shared(), source, relu);
  const Tensor tenant = in_block(memory::shared(), x, relu);  // takes the arena that `held` was in
  source = {};
  const Tensor y = in_block(everything(), x, [&](Tensor z) {
    const Tensor a = relu(std::move(z));
    const Tensor b = relu(a);
    return relu(b);  // the others leave as the block does, when nobody can be told
  });
  EXPECT_THROW(bits_of(held), OffloadError);
  EXPECT_THROW(bits_of(held), OffloadError);
  EXPECT_THROW(ops::relu(y), OffloadError);
}

TEST_F(OffloadTest, AFolderThatIsNoneIsRefused) {
  const std::string missing = (folder_ / "nowhere").string();
  const std::string message = message_of<OffloadError>([&] { memory::prepare_offload({.directory = missing}); });
  EXPECT_NE(message.find(missing), std::string::npos) << message;
  EXPECT_NE(message.find("No such file or directory"), std::string::npos) << message;
  EXPECT_NE(
      message_of<OffloadError>([&] { memory::prepare_offload({.directory = "/dev/null"}); }).find("Not a directory"),
      std::string::npos);
  EXPECT_NO_THROW(memory::prepare_offload({}));
  EXPECT_EQ(memory::offload_directory({}), fs::temp_directory_path());
}

TEST_F(OffloadTest, AFolderThatIsNoneFailsTheStepAlone) {
  if (device() != Device::Cpu) GTEST_SKIP() << "the CPU's file";
  const PolicyPtr nowhere =
      memory::parse("checkpoint+offload", {.at_least = 0, .directory = folder_ / "nowhere"}).policy();
  expect_clean_failure(everything(), [&](Training& training) {
    training.model().set_memory(nowhere);
    EXPECT_NE(message_of<OffloadError>([&] { training.step(); }).find("nowhere"), std::string::npos);
    training.model().set_memory(everything());
  });
}

TEST_F(OffloadTest, PoliciesWithFoldersOfTheirOwnWorkSideBySide) {
  if (device() != Device::Cpu) GTEST_SKIP() << "the CPU's file";
  const fs::path other = folder_ / "other";
  fs::create_directory(other);
  Training reference = small_densenet()(memory::store_all(), device());
  Training training = small_densenet()(everything(), device());
  std::vector<PolicyPtr> policies(training.model().block_names().size(), everything());
  policies.back() = memory::offload({.at_least = 0, .directory = other});
  training.model().set_memory(policies);
  reference.step();
  training.step();
  EXPECT_EQ(training.digest(), reference.digest());
  for (const fs::path& folder : {folder_, other}) {
    const int file = descriptor_in(folder);
    ASSERT_GE(file, 0) << folder;
    EXPECT_GT(size_of_file(file), 0U) << folder;
  }
  EXPECT_TRUE(fs::is_empty(other)) << "the file has a name";
  fs::remove(other);
}

}  // namespace
}  // namespace palimpsest::test
