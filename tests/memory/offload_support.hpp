#pragma once

// Shared by the tests of offloading: a fixture with a folder of its own, models, and the peak of a step.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include <palimpsest/memory/offload.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/training.hpp"

namespace palimpsest::test {

/// Each test has a folder, and so a file, of its own.
class OffloadTest : public TapeTest {
 protected:
  void SetUp() override {
    TapeTest::SetUp();
    std::string name = (std::filesystem::temp_directory_path() / "offload-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    EXPECT_EQ(memory::offload_stats(device()).held, 0U) << "values are still out after the test";
    EXPECT_TRUE(std::filesystem::is_empty(folder_)) << "the file has a name";
    std::filesystem::remove_all(folder_);
    TapeTest::TearDown();
  }

  /// Offloads everything, to the test's folder.
  PolicyPtr everything() const { return memory::offload({.at_least = 0, .directory = folder_}); }

  std::filesystem::path folder_;
};

/// A loss of one image.
inline Tensor score(const Tensor& x) {
  return ops::cross_entropy(ops::global_avg_pool(x), from_vector<std::int32_t>({1}, {1}));
}

using MakeTraining = std::function<Training(const PolicyPtr& policy, Device where)>;

/// Models of that specification that learn from four images of 16x16 pixels.
template <class Model, class TensorSpec>
MakeTraining on_four_images(const TensorSpec& spec) {
  return [spec](const PolicyPtr& policy, Device where) {
    Batch batch;
    if (is_meta(where)) {
      batch.images = Tensor::empty({4, 3, 16, 16}, Dtype::Float32, where, Tag::Data);
      batch.labels = Tensor::empty({4}, Dtype::Int32, where, Tag::Data);
    } else {
      batch.images = random_tensor({4, 3, 16, 16}, 9);
      batch.labels = from_vector<std::int32_t>({4}, {0, 3, 7, 9}, Tag::Data);
    }
    Training training = training_of<Model>(spec, nn::Init(5, where), std::move(batch));
    training.model().set_memory(policy);
    return training;
  };
}

inline MakeTraining small_densenet() { return on_four_images<nn::DenseNet>(densenet_spec({4, 4}, 8)); }
inline MakeTraining small_revnet(std::optional<int> grid = std::nullopt) {
  return on_four_images<nn::RevNet>(revnet_spec({4, 3}, grid));
}

inline std::string digest_after(int steps, const MakeTraining& make, const PolicyPtr& policy) {
  Training training = make(policy, device());
  for (int i = 0; i < steps; ++i) training.step();
  return training.digest();
}

struct Peak {
  std::size_t total;
  TagBytes by_tag;
  std::size_t out;  ///< bytes that are offloaded between forward and backward
  bool operator==(const Peak&) const = default;
};

inline Peak peak_of_second_step(const MakeTraining& make, const PolicyPtr& policy, Device where = device()) {
  Training training = make(policy, where);
  training.step();
  allocator(where).reset_peak();
  std::size_t out = 0;
  training.step([&] { out = memory::offload_stats(where).held; });
  const MemoryStats stats = allocator(where).stats();
  return {stats.peak, stats.peak_by_tag, out};
}

inline std::size_t live_activations() {
  return test_allocator().stats().live_by_tag[static_cast<std::size_t>(Tag::Activation)];
}

}  // namespace palimpsest::test
