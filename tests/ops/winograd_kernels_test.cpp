// Convolutions that the kernels do by Winograd's algorithm, against a plain loop in double: on every instruction set of
// this machine, the same bits for any number of threads, no further from the truth than a few roundings.

#include <palimpsest/core/types.hpp>
#include <palimpsest/ops/kernels/conv2d.hpp>
#include <palimpsest/ops/kernels/conv2d_partition.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "tests/ops/kernels_support.hpp"

namespace palimpsest::kernels {
namespace {

using Values = std::vector<float>;

/// The largest error over the largest value: ten times what the direct kernels have on such numbers.
constexpr double tolerance = 8e-6;

Conv2dGeometry geometry(std::int64_t n, std::int64_t c_in, std::int64_t c_out, std::int64_t h, std::int64_t w,
                        std::int64_t pad_top = 1, std::int64_t pad_left = 1, std::int64_t pad_bottom = 1,
                        std::int64_t pad_right = 1) {
  return {n, c_in, h, w,       c_out,   h + pad_top + pad_bottom - 2, w + pad_left + pad_right - 2, 3,
          3, 1,    1, pad_top, pad_left};
}

std::int64_t x_size(const Conv2dGeometry& g) { return g.n * g.h_in * g.w_in * g.c_in; }
std::int64_t y_size(const Conv2dGeometry& g) { return g.n * g.h_out * g.w_out * g.c_out; }
std::int64_t w_size(const Conv2dGeometry& g) { return g.c_out * 9 * g.c_in; }

/// Calls body(first element of a pixel of x, tap, first element of a pixel of y) wherever a tap of y's pixel is inside
/// x.
template <class Body>
void for_each_tap(const Conv2dGeometry& g, const Body& body) {
  for (std::int64_t n = 0; n < g.n; ++n)
    for (std::int64_t i = 0; i < g.h_out; ++i)
      for (std::int64_t j = 0; j < g.w_out; ++j)
        for (std::int64_t tap = 0; tap < 9; ++tap) {
          const std::int64_t row = i + tap / 3 - g.pad_top;
          const std::int64_t col = j + tap % 3 - g.pad_left;
          if (row < 0 || row >= g.h_in || col < 0 || col >= g.w_in) continue;
          body(((n * g.h_in + row) * g.w_in + col) * g.c_in, tap, ((n * g.h_out + i) * g.w_out + j) * g.c_out);
        }
}

/// Operands of one convolution, and its results in double.
struct Expected {
  explicit Expected(const Conv2dGeometry& geometry)
      : g(geometry),
        x(random_values<float>(x_size(g), 1, 0, 1)),  // behind a ReLU nothing is negative
        w(random_values<float>(w_size(g), 2, -0.1, 0.1)),
        dy(random_values<float>(y_size(g), 3)),
        y(static_cast<std::size_t>(y_size(g))),
        dx(static_cast<std::size_t>(x_size(g))),
        dw(static_cast<std::size_t>(w_size(g))) {
    for_each_tap(g, [&](std::int64_t ix, std::int64_t tap, std::int64_t iy) {
      for (std::int64_t o = 0; o < g.c_out; ++o) {
        const std::int64_t iw = (o * 9 + tap) * g.c_in;
        for (std::int64_t c = 0; c < g.c_in; ++c) {
          y[iy + o] += static_cast<double>(x[ix + c]) * w[iw + c];
          dx[ix + c] += static_cast<double>(dy[iy + o]) * w[iw + c];
          dw[iw + c] += static_cast<double>(dy[iy + o]) * x[ix + c];
        }
      }
    });
  }

  Conv2dGeometry g;
  Values x, w, dy;
  std::vector<double> y, dx, dw;
};

using Kernel = std::function<void(Isa, float*, float*)>;  // result, workspace

/// Runs a kernel into a copy of `start` of exactly as many elements, with exactly the workspace it asked for, full of
/// NaN.
Values run(Isa isa, const Values& start, std::size_t workspace_bytes, const Kernel& kernel) {
  const auto result = std::make_unique<float[]>(start.size());
  std::copy(start.begin(), start.end(), result.get());
  const std::size_t elements = workspace_bytes / sizeof(float);
  const std::unique_ptr<float[], void (*)(float*)> space(
      new (std::align_val_t{64}) float[elements], [](float* p) { ::operator delete[](p, std::align_val_t{64}); });
  std::fill_n(space.get(), elements, std::numeric_limits<float>::quiet_NaN());
  kernel(isa, result.get(), space.get());
  return {result.get(), result.get() + start.size()};
}

void expect_kernel(const std::vector<double>& expected, std::size_t workspace_bytes, bool accumulate,
                   const Kernel& kernel) {
  const Values start = random_values<float>(static_cast<std::int64_t>(expected.size()), 4);
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  on_every_isa<float>([&](Isa isa) { return run(isa, start, workspace_bytes, kernel); },
                      [&](const Values& result) {
                        for (std::size_t i = 0; i < result.size(); ++i) {
                          const double wanted = accumulate ? expected[i] + start[i] : expected[i];
                          ASSERT_LE(std::abs(result[i] - wanted), tolerance * largest) << "element " << i;
                        }
                      });
}

void check(const Conv2dGeometry& g) {
  SCOPED_TRACE(::testing::Message() << g.n << " images " << g.h_in << "x" << g.w_in << ", " << g.c_in << " -> "
                                    << g.c_out << ", pads " << g.pad_top << ", " << g.pad_left << ", outputs "
                                    << g.h_out << "x" << g.w_out);
  const Expected e(g);
  {
    SCOPED_TRACE("forward");
    ASSERT_TRUE(winograd_forward(g, sizeof(float)));
    expect_kernel(
        e.y, conv2d_forward_workspace(Device::Cpu, g, sizeof(float)), false,
        [&](Isa isa, float* to, float* space) { CALL_ON(isa, conv2d_forward(g, e.x.data(), e.w.data(), to, space)); });
  }
  for (const bool accumulate : {false, true}) {
    SCOPED_TRACE(accumulate ? "added to dx" : "dx");
    expect_kernel(e.dx, conv2d_grad_input_workspace(Device::Cpu, g, sizeof(float)), accumulate,
                  [&](Isa isa, float* to, float* space) {
                    CALL_ON(isa, conv2d_grad_input(g, e.dy.data(), e.w.data(), to, accumulate, space));
                  });
  }
  for (const bool accumulate : {false, true}) {
    SCOPED_TRACE(accumulate ? "added to dw" : "dw");
    expect_kernel(e.dw, conv2d_grad_weight_workspace(Device::Cpu, g, sizeof(float)), accumulate,
                  [&](Isa isa, float* to, float* space) {
                    CALL_ON(isa, conv2d_grad_weight(g, e.x.data(), e.dy.data(), to, accumulate, space));
                  });
  }
}

TEST(WinogradKernels, EveryRestOfATile) {
  for (const std::int64_t h : {3, 4, 6, 7, 8, 9, 12, 14}) check(geometry(2, 32, 32, h, 8));
  for (const std::int64_t w : {3, 4, 6, 7, 10, 11, 13, 20}) check(geometry(1, 32, 32, 7, w));
}

TEST(WinogradKernels, EveryRestOfAVector) {
  for (const std::int64_t c : {33, 36, 40, 47, 48, 49, 63, 64, 65, 97, 128}) {
    check(geometry(1, c, 32, 6, 7));
    check(geometry(1, 32, c, 7, 6));
    check(geometry(1, c, c, 4, 4));
  }
  check(geometry(1, 256, 34, 4, 8));
  check(geometry(1, 35, 300, 8, 4));
}

TEST(WinogradKernels, AnyPadding) {
  check(geometry(2, 32, 40, 10, 9, 0, 0, 0, 0));
  check(geometry(1, 40, 32, 8, 12, 2, 2, 2, 2));
  check(geometry(1, 33, 32, 9, 10, 0, 2, 1, 0));
  check(geometry(1, 32, 33, 12, 13, -2, -1, -3, 1));  // a crop
  check(geometry(1, 32, 32, 7, 8, 6, 5, 3, 4));       // tiles that see nothing of x
}

TEST(WinogradKernels, ManyTiles) {
  check(geometry(37, 32, 32, 4, 4));
  check(geometry(3, 64, 96, 28, 28));
  check(geometry(1, 130, 70, 30, 17));
}

// The algorithm's arithmetic and its memory are for shapes alone: whether tensors are float, not how many images there
// are.
TEST(WinogradKernels, ChosenByShape) {
  const Conv2dGeometry one = geometry(1, 64, 64, 14, 14);
  const Conv2dGeometry many = geometry(200, 64, 64, 14, 14);
  EXPECT_TRUE(winograd_forward(one, sizeof(float)));
  EXPECT_FALSE(winograd_forward(one, sizeof(double)));
  EXPECT_EQ(conv2d_forward_workspace(Device::Cpu, one, sizeof(float)),
            conv2d_forward_workspace(Device::Cpu, many, sizeof(float)));
  EXPECT_EQ(conv2d_forward_workspace(Device::Cpu, one, sizeof(float)), std::size_t{36 * 64 * 64} * sizeof(float));
  EXPECT_FALSE(winograd_forward(geometry(8, 16, 16, 32, 32), sizeof(float)));
  EXPECT_FALSE(winograd_forward(geometry(8, 512, 512, 7, 7), sizeof(float)));
  EXPECT_FALSE(winograd_forward(geometry(8, 64, 64, 5, 5), sizeof(float)));
  Conv2dGeometry strided = geometry(1, 64, 64, 15, 15);
  strided.stride_h = strided.stride_w = 2;
  strided.h_out = strided.w_out = 8;
  EXPECT_FALSE(winograd_forward(strided, sizeof(float)));
  EXPECT_FALSE(winograd_gradient(strided, sizeof(float)));
}

}  // namespace
}  // namespace palimpsest::kernels
