// Runs the tests on the device that PALIMPSEST_TEST_DEVICE names. Without that device every test is
// reported as skipped, with the reason.

#include <gtest/gtest.h>

#include <cstdio>
#include <exception>
#include <string>
#include <utility>

#include <palimpsest/core/device.hpp>
#include "tests/support/test_device.hpp"

namespace {

/// Skips each test as it starts: its body and SetUp() do not run then, though its fixture is constructed. (Skipping in
/// an environment's SetUp() would do for a person, but the XML report would call the tests passed.)
class SkipAll : public ::testing::EmptyTestEventListener {
 public:
  explicit SkipAll(std::string reason) : reason_(std::move(reason)) {}
  void OnTestStart(const ::testing::TestInfo&) override { GTEST_SKIP() << reason_; }

 private:
  std::string reason_;
};

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  try {
    const palimpsest::Device device = palimpsest::test::device();
    if (device == palimpsest::Device::Cuda && palimpsest::cuda_device_count() == 0) {
      ::testing::UnitTest::GetInstance()->listeners().Append(
          new SkipAll("no CUDA device: " + palimpsest::cuda_unavailable_reason()));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return RUN_ALL_TESTS();
}
