// What is particular to CUDA: faults, uploads, launch geometry. Everything else is tested by running the other tests on
// this device.

#include <gtest/gtest.h>

#include "autograd/tensor.hpp"
#include "core/cuda_geometry.hpp"
#include "core/cuda_runtime.hpp"
#include "core/philox.hpp"
#include "ops/conv2d.hpp"
#include "ops/relu.hpp"

namespace palimpsest::test {
namespace {

TEST(CudaSmoke, Relu) {
  if (cuda_device_count() == 0) GTEST_SKIP() << cuda_unavailable_reason();
  const std::vector<float> values = {-1, 2, -3, 4, 5};
  Tensor x = Tensor::from_vector({5}, values, Device::Cuda);
  EXPECT_EQ(ops::relu(x).to_vector<float>(), (std::vector<float>{0, 2, 0, 4, 5}));
}

TEST(CudaSmoke, Conv) {
  if (cuda_device_count() == 0) GTEST_SKIP() << cuda_unavailable_reason();
  const auto make = [&](const Shape& shape, Device device) {
    Random own(3);
    std::vector<float> values(static_cast<std::size_t>(shape.count()));
    for (float& v : values) v = static_cast<float>(own.below(7)) - 3;
    return Tensor::from_vector(shape, values, device);
  };
  for (const std::int64_t c : {3, 8}) {
    std::vector<std::vector<float>> results;
    for (const Device device : {Device::Cpu, Device::Cuda}) {
      Tensor x = make({2, c, 6, 5}, device).requires_grad();
      Tensor w = make({4, c, 3, 3}, device).requires_grad();
      Tensor y = ops::conv2d(x, w, {.stride = 1, .padding = ops::Padding::all(1)});
      results.push_back(y.to_vector<float>());
    }
    EXPECT_EQ(results[0], results[1]);
  }
}

}  // namespace
}  // namespace palimpsest::test
