// The CPU kernels that move channels about and those of pooling against naive references in double: awkward shapes,
// buffers of the exact size, aliasing and accumulation.

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <utility>
#include <vector>

#include <palimpsest/core/types.hpp>
#include <palimpsest/ops/kernels/bias.hpp>
#include <palimpsest/ops/kernels/concat.hpp>
#include <palimpsest/ops/kernels/pad_channels.hpp>
#include <palimpsest/ops/kernels/pool.hpp>
#include "tests/ops/kernels_support.hpp"

namespace palimpsest::kernels {
namespace {

TYPED_TEST_SUITE(KernelsTest, FloatTypes);

// Channels.

TYPED_TEST(KernelsTest, ConcatGatherAndScatter) {
  using T = TypeParam;
  const std::vector<std::vector<std::int64_t>> joins = {
      {1}, {3, 1}, {24, 12, 12, 12}, {5, 0, 13, 64, 7}, {150, 12, 80}};
  for (const std::int64_t rows : {1, 2, 37, 1031}) {
    for (const std::vector<std::int64_t>& channels : joins) {
      std::vector<std::vector<T>> inputs;
      std::vector<const T*> pointers;
      std::int64_t total = 0;
      for (const std::int64_t width : channels) {
        inputs.push_back(random_values<T>(rows * width, 10 + inputs.size()));
        pointers.push_back(inputs.back().data());
        total += width;
      }
      const std::int64_t count = static_cast<std::int64_t>(channels.size());
      std::vector<double> expected;
      for (std::int64_t row = 0; row < rows; ++row) {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          const auto begin = inputs[i].begin() + row * channels[i];
          expected.insert(expected.end(), begin, begin + channels[i]);
        }
      }
      expect_on_every_isa<T>(expected, 0, [&](Isa isa) {
        std::vector<T> y(at(rows * total));
        CALL_ON(isa, concat_gather<T>(rows, count, pointers.data(), channels.data(), y.data()));
        // Scatter it back: the second output is skipped, every other one accumulates on 1.
        std::vector<std::vector<T>> outputs;
        std::vector<T*> targets;
        const auto adds = std::make_unique<bool[]>(channels.size());
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          adds[i] = i % 2 == 0;
          outputs.push_back(std::vector<T>(inputs[i].size(), T{1}));
        }
        for (std::size_t i = 0; i < inputs.size(); ++i) targets.push_back(i == 1 ? nullptr : outputs[i].data());
        CALL_ON(isa, concat_scatter<T>(rows, count, y.data(), targets.data(), channels.data(), adds.get()));
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          std::vector<T> want = inputs[i];
          if (adds[i]) std::for_each(want.begin(), want.end(), [](T& value) { value = T{1} + value; });
          if (i == 1) std::fill(want.begin(), want.end(), T{1});
          EXPECT_TRUE(same_bits(outputs[i], want)) << "output " << i;
        }
        return y;
      });
    }
  }
}

TYPED_TEST(KernelsTest, PadChannels) {
  using T = TypeParam;
  const std::initializer_list<std::pair<std::int64_t, std::int64_t>> paddings = {
      {0, 0}, {1, 0}, {0, 5}, {8, 8}, {3, 16}};
  for (const Rows shape : awkward_rows) {
    for (const auto& [before, after] : paddings) {
      const std::int64_t left = before;
      const std::int64_t total = before + shape.channels + after;
      const std::int64_t right = after;
      const std::vector<T> x = random_values<T>(shape.count(), 1);
      const std::vector<T> sums = random_values<T>(shape.count(), 2);
      std::vector<double> expected(at(shape.rows * total));
      for (std::int64_t i = 0; i < shape.count(); ++i) {
        expected[at(i / shape.channels * total + left + i % shape.channels)] = x[at(i)];
      }
      expect_on_every_isa<T>(expected, 0, [&](Isa isa) {
        std::vector<T> y(expected.size(), T{9});
        CALL_ON(isa, pad_channels_forward<T>(shape.rows, shape.channels, left, right, x.data(), y.data()));
        std::vector<T> dx(x.size());
        CALL_ON(isa, pad_channels_backward<T>(shape.rows, shape.channels, left, right, y.data(), dx.data(), false));
        EXPECT_TRUE(same_bits(dx, x));
        dx = sums;
        CALL_ON(isa, pad_channels_backward<T>(shape.rows, shape.channels, left, right, y.data(), dx.data(), true));
        for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(dx[i], sums[i] + x[i]);
        return y;
      });
    }
  }
}

TYPED_TEST(KernelsTest, Bias) {
  using T = TypeParam;
  for (const Rows shape : awkward_rows) {
    const std::vector<T> x = random_values<T>(shape.count(), 1);
    const std::vector<T> bias = random_values<T>(shape.channels, 2);
    std::vector<double> sums(bias.begin(), bias.end());
    std::vector<double> biased = to_double(x);
    for (std::int64_t i = 0; i < shape.count(); ++i) {
      sums[at(i % shape.channels)] += x[at(i)];
      biased[at(i)] += bias[at(i % shape.channels)];
    }
    expect_on_every_isa<T>(biased, rounding<T>, [&](Isa isa) {
      std::vector<T> y = x;
      CALL_ON(isa, add_bias<T>(shape.rows, shape.channels, bias.data(), y.data()));
      return y;
    });
    for (const bool accumulate : {true, false}) {
      for (std::size_t c = 0; !accumulate && c < bias.size(); ++c) sums[c] -= bias[c];
      expect_on_every_isa<T>(sums, 10 * rounding<T>, [&](Isa isa) {
        std::vector<T> sum = accumulate ? bias : std::vector<T>(bias.size(), T(NAN));
        std::vector<double> workspace(channel_sum_workspace(Device::Cpu, shape.rows, shape.channels) / sizeof(double),
                                      NAN);
        CALL_ON(isa, channel_sum<T>(shape.rows, shape.channels, x.data(), sum.data(), accumulate, workspace.data()));
        return sum;
      });
    }
  }
}

// Pooling.

PoolShape pool_shape(std::int64_t n, std::int64_t height, std::int64_t width, std::int64_t channels,
                     std::int64_t kernel, std::int64_t stride, std::int64_t pad) {
  return {n,
          height,
          width,
          channels,
          kernel,
          stride,
          pad,
          pad,
          (height + 2 * pad - kernel) / stride + 1,
          (width + 2 * pad - kernel) / stride + 1};
}

std::int64_t out_count(const PoolShape& s) { return s.n * s.out_height * s.out_width * s.channels; }
std::int64_t in_count(const PoolShape& s) { return s.n * s.height * s.width * s.channels; }

/// body(offset in y, offsets in x of its window in scan order), for every element of y.
template <class Body>
void for_each_window(const PoolShape& s, const Body& body) {
  for (std::int64_t out = 0; out < out_count(s); ++out) {
    const std::int64_t c = out % s.channels;
    const std::int64_t column = out / s.channels % s.out_width * s.stride - s.pad_left;
    const std::int64_t row = out / s.channels / s.out_width % s.out_height * s.stride - s.pad_top;
    const std::int64_t image = out / s.channels / s.out_width / s.out_height;
    std::vector<std::size_t> window;
    for (std::int64_t h = row; h < row + s.kernel; ++h) {
      for (std::int64_t w = column; w < column + s.kernel; ++w) {
        if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
        window.push_back(at(((image * s.height + h) * s.width + w) * s.channels + c));
      }
    }
    body(at(out), window);
  }
}

TYPED_TEST(KernelsTest, AvgPool) {
  using T = TypeParam;
  for (const PoolShape& s :
       {pool_shape(1, 1, 1, 1, 1, 1, 0), pool_shape(3, 8, 8, 24, 2, 2, 0), pool_shape(2, 7, 5, 3, 2, 2, 0),
        pool_shape(2, 9, 7, 5, 3, 2, 0), pool_shape(1, 6, 11, 2, 2, 3, 0), pool_shape(2, 33, 31, 70, 2, 1, 0)}) {
    const std::vector<T> x = random_values<T>(in_count(s), 1);
    const std::vector<T> dy = random_values<T>(out_count(s), 2);
    std::vector<double> y(dy.size());
    std::vector<double> dx(x.size());
    const double area = static_cast<double>(s.kernel * s.kernel);
    const T share = static_cast<T>(1 / area);
    for_each_window(s, [&](std::size_t out, const std::vector<std::size_t>& window) {
      for (const std::size_t in : window) {
        y[out] += x[in] / area;
        dx[in] += dy[out] / area;
      }
    });
    expect_on_every_isa<T>(y, rounding<T>, [&](Isa isa) {
      std::vector<T> result(y.size());
      CALL_ON(isa, sum_windows<T>(s, share, x.data(), result.data(), false));
      return result;
    });
    expect_backward<T>(dx, rounding<T>, [&](Isa isa, T* result, bool accumulate) {
      CALL_ON(isa, spread_windows<T>(s, share, dy.data(), result, accumulate));
    });
  }
}

TYPED_TEST(KernelsTest, GlobalAvgPool) {
  using T = TypeParam;
  for (const auto& [n, pixels, channels] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {3, 64, 342}, {2, 49, 1031}, {5, 7, 3}}) {
    const std::int64_t images = n, size = pixels, width = channels;
    const std::vector<T> x = random_values<T>(n * pixels * channels, 1);
    const std::vector<T> dy = random_values<T>(n * channels, 2);
    std::vector<double> y(dy.size());
    std::vector<double> dx(x.size());
    for (std::int64_t i = 0; i < n * pixels * channels; ++i) {
      const std::size_t out = at(i / (pixels * channels) * channels + i % channels);
      y[out] += x[at(i)] / static_cast<double>(pixels);
      dx[at(i)] = dy[out] / static_cast<double>(pixels);
    }
    expect_on_every_isa<T>(y, rounding<T>, [&](Isa isa) {
      std::vector<T> result(y.size());
      CALL_ON(isa, global_avg_pool_forward<T>(images, size, width, x.data(), result.data()));
      return result;
    });
    expect_backward<T>(dx, rounding<T>, [&](Isa isa, T* result, bool accumulate) {
      CALL_ON(isa, global_avg_pool_backward<T>(images, size, width, dy.data(), result, accumulate));
    });
  }
}

// Coarse values make ties, of which the first must win.
TYPED_TEST(KernelsTest, MaxPool) {
  using T = TypeParam;
  for (const PoolShape& s :
       {pool_shape(1, 1, 1, 1, 1, 1, 0), pool_shape(3, 8, 8, 24, 2, 2, 0), pool_shape(2, 7, 5, 3, 3, 2, 1),
        pool_shape(2, 9, 7, 65, 3, 2, 1), pool_shape(1, 6, 11, 2, 2, 3, 1), pool_shape(2, 16, 15, 130, 3, 1, 0),
        PoolShape{2, 8, 6, 5, 3, 2, 0, 0, 4, 3}, PoolShape{1, 7, 9, 3, 6, 2, 1, 3, 3, 4}}) {
    const std::vector<T> x = coarse_values<T>(in_count(s), 1);
    const std::vector<T> dy = random_values<T>(out_count(s), 2);
    std::vector<double> y(dy.size());
    std::vector<double> dx(x.size());
    for_each_window(s, [&](std::size_t out, const std::vector<std::size_t>& window) {
      const auto best =
          std::max_element(window.begin(), window.end(), [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
      y[out] = x[*best];
      dx[*best] += dy[out];
    });
    expect_on_every_isa<T>(y, 0, [&](Isa isa) {
      std::vector<T> result(y.size());
      CALL_ON(isa, max_pool2d_forward<T>(s, x.data(), result.data()));
      return result;
    });
    expect_backward<T>(dx, 2 * rounding<T>, [&](Isa isa, T* result, bool accumulate) {
      CALL_ON(isa, max_pool2d_backward<T>(s, x.data(), dy.data(), result, accumulate));
    });
  }
}

TYPED_TEST(KernelsTest, MaxPoolOfNaN) {
  using T = TypeParam;
  const PoolShape s = pool_shape(1, 2, 2, 1, 2, 2, 0);
  for (std::size_t position = 0; position < 4; ++position) {
    for (const Isa isa : machine_isas()) {
      std::vector<T> x = {1, 2, 3, 4};
      x[position] = std::numeric_limits<T>::quiet_NaN();
      T y = 0;
      CALL_ON(isa, max_pool2d_forward<T>(s, x.data(), &y));
      EXPECT_TRUE(std::isnan(y));
      const T dy = 5;
      std::vector<T> dx(4);
      CALL_ON(isa, max_pool2d_backward<T>(s, x.data(), &dy, dx.data(), false));
      for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(dx[i], i == position ? 5 : 0);
    }
  }
}

}  // namespace
}  // namespace palimpsest::kernels
