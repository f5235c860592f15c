// The kernels of convolutions that normalise their input, on every instruction set of this machine and on CUDA.

#include <gtest/gtest.h>

#include <numeric>

#include <palimpsest/core/kernel.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/kernels/norm_conv_cuda_partition.hpp>
#include "tests/ops/norm_conv_case.hpp"
#include "tests/support/test_device.hpp"

namespace palimpsest::test {
namespace {

using Widths = std::vector<std::int64_t>;

Widths equal(std::size_t parts, std::int64_t width) { return Widths(parts, width); }

/// 1, 2, 3, ... channels: every width, at every offset that it leads to.
Widths growing(std::int64_t parts) {
  Widths widths(static_cast<std::size_t>(parts));
  std::iota(widths.begin(), widths.end(), 1);
  return widths;
}

// --- The CPU ---------------------------------------------------------------------------------------------------------

class NormConvKernelsTest : public ::testing::Test {
 protected:
  void TearDown() override { set_thread_count(threads_); }

 private:
  int threads_ = thread_count();
};

template <class T>
void expect_same_bits(const typename NormConvCase<T>::Results& actual,
                      const typename NormConvCase<T>::Results& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const auto& values = actual[i].values;
    EXPECT_EQ(std::memcmp(values.data(), expected[i].values.data(), values.size() * sizeof(T)), 0)
        << actual[i].what << " has other bits";
  }
}

template <class T>
void check_on_cpu(const NormConvShape& shape, Numbers numbers, Wanted wanted) {
  SCOPED_TRACE(::testing::Message() << shape << (sizeof(T) == 4 ? ", float" : ", double"));
  ASSERT_TRUE(shape.pointwise() || kernels::norm_conv2d_fits(shape.g, sizeof(T)));
  const NormConvCase<T> tested(shape, numbers, wanted);
  for (const NormConvKernels<T>& on : cpu_norm_conv_kernels<T>()) {
    SCOPED_TRACE(on.name);
    set_thread_count(1);
    const auto results = tested.run(on);
    tested.check(results);
    for (const int threads : {2, 3}) {
      SCOPED_TRACE(threads);
      set_thread_count(threads);
      expect_same_bits<T>(tested.run(on), results);
    }
    if (::testing::Test::HasFailure()) return;
  }
}

void check_both(const NormConvShape& shape, Numbers numbers, Wanted wanted = Wanted::Some) {
  check_on_cpu<float>(shape, numbers, wanted);
  check_on_cpu<double>(shape, numbers, wanted);
}

void check(const NormConvShape& shape, Wanted wanted = Wanted::Some) {
  check_both(shape, Numbers::Integers, wanted);
  check_both(shape, Numbers::Real, wanted);
}

TEST_F(NormConvKernelsTest, AnyNumberOfParts) {
  for (const std::size_t parts : {1, 2, 3, 4, 7, 31, 64, 70}) check(on_rows(37, equal(parts, 3), 5));
  for (const std::size_t parts : {2, 17, 70}) check(on_rows(9, equal(parts, 1), 2));
  check(on_rows(70, {24, 12, 12, 12, 12, 12, 12, 12}, 48));
}

TEST_F(NormConvKernelsTest, PartsOfAnyWidth) {
  check(on_rows(11, growing(40), 6));
  for (const std::int64_t width : {1, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 97, 129}) {
    check_both(on_rows(67, {width}, 3), Numbers::Integers, Wanted::All);
    check_both(on_rows(5, {3, width, width}, 4), Numbers::Integers);
  }
}

TEST_F(NormConvKernelsTest, AnyNumberOfOutputs) {
  for (std::int64_t outputs = 1; outputs <= 50; ++outputs) {
    check_both(on_rows(19, {5, 8}, outputs), Numbers::Integers, Wanted::All);
  }
  for (const std::int64_t outputs : {63, 64, 65, 96, 97, 127, 128, 144, 145, 200}) {
    check_both(on_rows(21, {12, 24, 7}, outputs), Numbers::Integers);
  }
  check_both(on_rows(90, {36, 13}, 200), Numbers::Real);
}

TEST_F(NormConvKernelsTest, AnyNumberOfRows) {
  for (const std::int64_t rows : {1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 63, 64, 65, 79, 127, 128, 129, 255, 257, 500}) {
    check_both(on_rows(rows, {9, 12, 4}, 13), Numbers::Integers);
  }
  check(on_rows(2100, {6, 5}, 4));     // all chunks that there may be, some of a tile more than others
  check(on_rows(4500, {40, 21}, 10));  // several tiles to a task of forward
}

TEST_F(NormConvKernelsTest, MoreChannelsThanTheScratchHolds) {
  check(on_rows(40, {1100, 37}, 7), Wanted::All);  // forward takes two runs of channels, the gradient pass three groups
  check(on_rows(130, {481}, 3), Wanted::All);
  check(on_rows(75, equal(25, 20), 5));
  check_both(on_rows(18, {700, 1, 900, 600}, 9), Numbers::Real);  // parts that runs and groups cut through
  check_both(on_rows(300, {960, 33}, 100), Numbers::Integers);    // no room for many partial sums of dw
}

TEST_F(NormConvKernelsTest, GradientsThatNobodyWants) {
  for (const Wanted wanted : {Wanted::All, Wanted::Some, Wanted::None}) {
    check(on_rows(150, {12, 7, 24, 1, 16, 5, 32, 3}, 10), wanted);
    check(on_rows(20, {300, 250}, 4), wanted);
    check(on_images(3, 6, {12, 7, 24, 1, 16, 5, 32, 3}, 10), wanted);
  }
}

TEST_F(NormConvKernelsTest, NanStaysNan) {
  for (const Wanted wanted : {Wanted::All, Wanted::Some}) {
    check_both(on_rows(70, {6, 13, 8}, 5), Numbers::Nan, wanted);
    check_both(on_rows(3, {500, 600}, 17), Numbers::Nan, wanted);
    check_both(on_images(2, 7, {6, 13, 8}, 5), Numbers::Nan, wanted);
  }
}

TEST_F(NormConvKernelsTest, LargerKernels) {
  check(on_images(5, 8, {24, 12, 12}, 12));
  for (const std::int64_t width : {1, 5, 16, 31, 48, 50}) check(on_images(2, 7, {width, 3}, 12));
  for (const std::int64_t outputs : {1, 3, 12, 16, 33, 50}) check(on_images(3, 5, {11, 8}, outputs));
  for (const std::int64_t side : {1, 2, 3, 9, 16, 17, 23}) {
    check_both(on_images(3, side, {10, 3}, 12), Numbers::Integers);
  }
  check_both(on_images(2, 40, {12, 4}, 12), Numbers::Real);  // an image is more than a unit's rows
  check_both(on_images(70, 4, {7, 6}, 5), Numbers::Real);    // units of many images, the last of fewer
  check_both(on_images(33, 16, {5}, 12), Numbers::Integers);
}

TEST_F(NormConvKernelsTest, WindowsOfAnyKind) {
  for (const std::int64_t kernel : {2, 3, 5, 7}) {
    for (const std::int64_t stride : {1, 2, 3}) {
      for (const std::int64_t pad : {0, 1, 4}) {
        check_both(on_images(3, 9, {5, 9}, 7, {kernel, stride, pad, pad + 1}), Numbers::Integers);
      }
    }
  }
  check_both(on_images(2, 16, {20, 12}, 16, {3, 2, 0, 1}), Numbers::Real);
  check(on_images(5, 7, {20, 12}, 16, {1, 2, 0, 0}));
  check(on_images(5, 7, {3, 4}, 5, {1, 1, 1, 1}));             // a border of zeros
  for (const std::int64_t images : {1, 15, 16, 17, 33, 50}) {  // whatever is left for the last unit
    check_both(on_images(images, 6, {9, 4}, 7), Numbers::Real);
    check_both(on_images(images, 3, {9, 4}, 7, {3, 2, 1, 1}), Numbers::Real);
  }
}

// From 32 channels on the convolution of floats goes by Winograd's algorithm, with many tiles its weight gradient, too.
TEST_F(NormConvKernelsTest, WinogradTiles) {
  for (const std::int64_t images : {3, 16, 40}) check_both(on_images(images, 16, {40, 24}, 32), Numbers::Real);
  check_both(on_images(18, 15, {33}, 50), Numbers::Real, Wanted::All);
  check_both(on_images(5, 7, {20, 30}, 40), Numbers::Real, Wanted::None);
}

// --- CUDA ------------------------------------------------------------------------------------------------------------

/// Skipped where there is no card. No fault may be left behind.
class CudaNormConvTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device: " << cuda_unavailable_reason();
  }
  void TearDown() override {
    if (cuda_device_count() == 0) return;
    EXPECT_NO_THROW(synchronize(Device::Cuda)) << "a fault that no read has reported";
  }
};

/// The chunks that CUDA cuts the rows into.
template <class T>
std::int64_t chunks(const NormConvShape& shape) {
  if (!shape.pointwise()) {
    const std::int64_t images = gpu_geometry::norm_conv2d_images(shape.g, sizeof(T));
    return (shape.g.n + images - 1) / images;
  }
  const std::int64_t rows = gpu_geometry::norm_conv_rows(
      {shape.rows(), shape.g.c_in, shape.g.c_out, shape.parts(), shape.g.products}, sizeof(T));
  return (shape.rows() + rows - 1) / rows;
}

template <class T>
void check_on_cuda(const NormConvShape& shape, std::int64_t least_chunks, Wanted wanted) {
  SCOPED_TRACE(::testing::Message() << shape << (sizeof(T) == 4 ? ", float" : ", double"));
  EXPECT_GE(chunks<T>(shape), least_chunks);
  const NormConvKernels<T> on = cuda_norm_conv_kernels<T>();
  for (const Numbers numbers : {Numbers::Integers, Numbers::Real, Numbers::Nan}) {
    const NormConvCase<T> tested(shape, numbers, wanted);
    const auto results = tested.run(on);
    tested.check(results);
    if (numbers == Numbers::Real) expect_same_bits<T>(tested.run(on), results);  // every time
  }
}

void check_cuda(const NormConvShape& shape, std::int64_t least_chunks = 1, Wanted wanted = Wanted::Some) {
  check_on_cuda<float>(shape, least_chunks, wanted);
  check_on_cuda<double>(shape, least_chunks, wanted);
}

TEST_F(CudaNormConvTest, OneChunk) {
  check_cuda(on_rows(1, {1}, 1), 1, Wanted::All);
  check_cuda(on_rows(3, {1, 2}, 2), 1, Wanted::All);
  check_cuda(on_rows(65, {12, 4, 24, 8}, 7));  // packs of four
  check_cuda(on_rows(150, {33, 31, 7, 2, 1, 40}, 9));
  check_cuda(on_rows(40, {64, 300, 36}, 20), 1, Wanted::All);
  check_cuda(on_rows(70, {12, 8}, 5), 1, Wanted::None);
  check_cuda(on_images(3, 5, {12, 7}, 6));
  check_cuda(on_images(2, 6, {5, 4}, 8, {3, 2, 0, 1}), 1, Wanted::All);
}

TEST_F(CudaNormConvTest, MorePartsThanALaunchTakes) {
  check_cuda(on_rows(66, equal(130, 4), 3));
  check_cuda(on_rows(20, equal(300, 1), 3));
  check_cuda(on_images(2, 3, equal(129, 2), 3));
}

TEST_F(CudaNormConvTest, ManyChunks) {
  const auto bounded = [](NormConvShape shape, std::size_t bytes) {
    shape.g.products.column_bytes = bytes;
    return shape;
  };
  const auto least = [&](const NormConvShape& shape) { return bounded(shape, 1); };  // 64 rows, or an image, at a time
  for (const std::int64_t rows : {64, 65, 128, 129}) {
    check_cuda(least(on_rows(rows, {5}, 2)), (rows + 63) / 64, Wanted::All);
  }
  check_cuda(least(on_rows(200, {12, 4, 24, 8}, 7)), 4);
  check_cuda(least(on_rows(200, {12, 3, 24, 5}, 6)), 4);
  check_cuda(least(on_rows(150, equal(130, 2), 3)), 3);
  check_cuda(least(on_images(5, 6, {8, 4, 3}, 5)), 5);
  check_cuda(least(on_images(4, 5, {8, 4}, 6)), 4);
  check_cuda(bounded(on_rows(333, {33, 31, 7, 2, 1, 40}, 9), 60'000), 2);
  check_cuda(bounded(on_images(7, 6, {8, 12}, 5), 60'000), 3);
}

}  // namespace
}  // namespace palimpsest::test
