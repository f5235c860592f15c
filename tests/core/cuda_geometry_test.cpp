// How CUDA kernels are cut into blocks, and convolutions into chunks: functions of shapes, tested without a card.

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include <palimpsest/core/cuda/geometry.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/gemm.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>
#include <palimpsest/ops/kernels/bias.hpp>
#include <palimpsest/ops/kernels/conv2d_cuda_partition.hpp>

namespace palimpsest::gpu_geometry {
namespace {

// Limits of CUDA.
constexpr Index max_grid_x = 0x7FFFFFFF;
constexpr Index max_grid_y = 65535;

const std::vector<Index> counts = {1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 255, 256, 257, 1000, 4099, 65537};
const std::vector<Index> huge_counts = {1'000'003, Index{1} << 31, (Index{1} << 31) + 1, Index{1} << 40};

/// How often each item is visited by threads that begin at first(thread) and go on by `step`.
template <class First>
void expect_each_once(Index items, Index threads, Index step, const First& first) {
  std::vector<int> visits(static_cast<std::size_t>(items));
  for (Index thread = 0; thread < threads; ++thread) {
    for (Index i = first(thread); i < items; i += step) ++visits[static_cast<std::size_t>(i)];
  }
  for (Index i = 0; i < items; ++i)
    ASSERT_EQ(visits[static_cast<std::size_t>(i)], 1) << "item " << i << " of " << items;
}

TEST(LaunchGeometry, LinearCoversEveryItemOnce) {
  EXPECT_EQ(linear(0).blocks, 0U);
  constexpr Index most = Linear::max_blocks * block_threads;
  std::vector<Index> tried = counts;
  tried.insert(tried.end(), {most - 1, most, most + 1, 2 * most + 77});
  for (const Index count : tried) {
    const Index threads = Index{linear(count).blocks} * block_threads;
    expect_each_once(count, threads, threads, [](Index thread) { return thread; });
    EXPECT_LT(threads - block_threads, count) << "a block without work";
  }
  for (const Index count : huge_counts) EXPECT_LE(linear(count).blocks, Linear::max_blocks);
}

void expect_within_limits(const Rows& r) {
  EXPECT_GE(r.threads_x * r.threads_y, 1U);
  EXPECT_LE(r.threads_x * r.threads_y, static_cast<unsigned>(block_threads));
  EXPECT_LE(r.blocks_x, max_grid_x);
  EXPECT_LE(r.blocks_y, max_grid_y);
}

TEST(LaunchGeometry, RowsCoverEveryRowAndGroupOnce) {
  EXPECT_EQ(rows(0, 5).blocks_x * rows(0, 5).blocks_y, 0U);
  EXPECT_EQ(rows(5, 0).blocks_x * rows(5, 0).blocks_y, 0U);
  for (const Index row_count : counts) {
    for (const Index groups : counts) {
      const Rows r = rows(row_count, groups);
      expect_within_limits(r);
      const Index across = Index{r.blocks_x} * r.threads_x;  // a thread for each group, the last block's rest idle
      EXPECT_GE(across, groups);
      EXPECT_LT(across - r.threads_x, groups);
      const Index down = Index{r.blocks_y} * r.threads_y;
      expect_each_once(row_count, down, down, [](Index thread) { return thread; });
    }
  }
}

TEST(LaunchGeometry, RowsOfHugeMatricesKeepToTheGrid) {
  for (const Index row_count : huge_counts) {
    for (const Index groups : {Index{1}, Index{64}, Index{65}, Index{1'000'003}}) {
      expect_within_limits(rows(row_count, groups));
      expect_within_limits(rows(groups, row_count / 64));
      EXPECT_GE(Index{rows(groups, row_count / 64).blocks_x} * rows(groups, row_count / 64).threads_x, row_count / 64);
    }
  }
}

TEST(LaunchGeometry, ReductionsPartTheRowsWithoutGapsOrEmptyParts) {
  std::vector<Index> tried = counts;
  tried.insert(tried.end(), huge_counts.begin(), huge_counts.end());
  for (Index row_count = 1; row_count < 70'000; row_count += row_count < 300 ? 1 : 61) tried.push_back(row_count);
  for (const Index row_count : tried) {
    for (const Index channels : {Index{1}, Index{31}, Index{32}, Index{33}, Index{2048}}) {
      const ChannelReduction r = channel_reduction(row_count, channels);
      EXPECT_GE(r.parts * r.rows_per_part, row_count);
      EXPECT_LT((r.parts - 1) * r.rows_per_part, row_count) << row_count << " rows leave a part empty";
      EXPECT_LE(r.parts, 256);
      EXPECT_GE(Index{r.blocks_x} * ChannelReduction::threads_x, channels);
      EXPECT_LT((Index{r.blocks_x} - 1) * ChannelReduction::threads_x, channels);
      // A double for each sum of each part and channel.
      const auto one = static_cast<std::size_t>(r.parts * channels) * sizeof(double);
      EXPECT_EQ(kernels::batch_norm_workspace(Device::Cuda, row_count, channels), 2 * one);
      EXPECT_EQ(kernels::channel_sum_workspace(Device::MetaCuda, row_count, channels), one);
    }
  }
}

TEST(LaunchGeometry, PacksDivideTheRow) {
  for (Index count = 1; count <= 64; ++count) {
    for (const Index bytes : {4, 8}) {
      const int width = vector_width(count, bytes);
      EXPECT_EQ(count % width, 0);
      EXPECT_TRUE(width == 1 || width * bytes == 16);
      EXPECT_EQ(width == 1, count % (16 / bytes) != 0);
    }
  }
}

// --- Convolutions ----------------------------------------------------------------------------------------------------

/// Geometries with every combination of what is awkward: kernels larger than the image, strides, pads larger than the
/// kernel and none.
std::vector<Convolution> convolutions() {
  std::vector<Convolution> all;
  for (const Index n : {1, 2, 7}) {
    for (const Index channels : {1, 3, 8}) {
      for (const Index out : {1, 5, 8}) {
        for (const Index kernel : {1, 2, 3, 5}) {
          for (const Index stride : {1, 2, 3}) {
            for (const Index pad : {0, 1, 4}) {
              const Index height = (9 + 2 * pad - kernel) / stride + 1;
              const Index width = (6 + 2 * pad - kernel) / stride + 1;
              all.push_back({n, channels, 9, 6, out, height, width, kernel, kernel, stride, stride, pad, pad});
            }
          }
        }
      }
    }
  }
  return all;
}

Convolution bounded(Convolution g, Index column_bytes) {
  g.products.column_bytes = static_cast<std::size_t>(column_bytes);
  return g;
}

/// Bytes of columns of a chunk of images.
Index columns(const Convolution& g, Index images, Index element) {
  return images * g.h_out * g.w_out * g.kernel_h * g.kernel_w * g.c_in * element;
}

TEST(ConvolutionPlan, ChunksAreAsLargeAsTheBoundAllows) {
  for (const Convolution& g : convolutions()) {
    for (const Index element : {4, 8}) {
      const Index one = columns(g, 1, element);
      for (const Index limit : {Index{1}, one - 1, one, one + 1, 2 * one, 3 * one - 1, Index{1} << 40}) {
        if (limit < 1) continue;
        const Index images = chunk_images(bounded(g, limit), element);
        ASSERT_GE(images, 1);
        ASSERT_LE(images, g.n);
        EXPECT_TRUE(images == 1 || columns(g, images, element) <= limit);
        EXPECT_TRUE(images == g.n || columns(g, images + 1, element) > limit);
      }
    }
  }
}

TEST(ConvolutionPlan, WorkspaceHoldsAChunkAndNoMoreThanTheBoundOrOneImage) {
  for (const Convolution& g : convolutions()) {
    for (const Index limit : {Index{1}, Index{1000}, Index{100'000}}) {
      for (const Index element : {4, 8}) {
        const Index room = column_chunk_bytes(bounded(g, limit), element);
        if (is_pointwise(g)) {
          EXPECT_EQ(room, 0);
          continue;
        }
        EXPECT_EQ(room % 256, 0);
        EXPECT_GE(room, columns(g, chunk_images(bounded(g, limit), element), element));
        EXPECT_LT(room, larger(limit, columns(g, 1, element)) + 256);
      }
    }
  }
}

TEST(ConvolutionPlan, TheMirroredConvolutionUndoesTheGeometry) {
  std::size_t preferred = 0;
  for (const Convolution& unbounded : convolutions()) {
    const Convolution g = bounded(unbounded, 1000);
    if (!prefers_mirrored(g)) {
      EXPECT_EQ(mirrored_kernel_bytes(g, 4), 0);
      EXPECT_EQ(grad_input_bytes(g, 4), column_chunk_bytes(g, 4));
      continue;
    }
    ++preferred;
    const Convolution m = mirrored(g);
    EXPECT_EQ(m.c_in, g.c_out);
    EXPECT_EQ(m.c_out, g.c_in);
    EXPECT_EQ(m.h_out, g.h_in);
    EXPECT_EQ(m.w_out, g.w_in);
    EXPECT_LT(columns(m, 1, 4), columns(g, 1, 4) * g.h_in * g.w_in / (g.h_out * g.w_out) + 1);
    EXPECT_FALSE(is_pointwise(m));
    EXPECT_EQ(mirrored(m).pad_top, g.pad_top);
    EXPECT_EQ(mirrored(m).pad_left, g.pad_left);
    // The kernel lies in front of the columns.
    EXPECT_GE(mirrored_kernel_bytes(g, 4), 4 * g.c_out * g.kernel_h * g.kernel_w * g.c_in);
    EXPECT_EQ(mirrored_kernel_bytes(g, 4) % 256, 0);
    EXPECT_GE(grad_input_bytes(g, 4), mirrored_kernel_bytes(g, 4) + columns(m, chunk_images(m, 4), 4));
  }
  EXPECT_GT(preferred, 50U);
}

TEST(ConvolutionPlan, WorkspaceIsThatOfTheColumnsAndOfTheProducts) {
  for (const Index bound : {1, 5000}) {
    for (const Convolution& unbounded : convolutions()) {
      const Convolution g = bounded(unbounded, bound);
      const auto beside_products = [](std::size_t bytes) {
        return static_cast<Index>(bytes - gemm_workspace(Device::Cuda));
      };
      using namespace kernels;
      EXPECT_EQ(beside_products(conv2d_forward_workspace(Device::Cuda, g, 4)), column_chunk_bytes(g, 4));
      EXPECT_EQ(beside_products(conv2d_grad_weight_workspace(Device::MetaCuda, g, 8)), column_chunk_bytes(g, 8));
      EXPECT_EQ(beside_products(conv2d_grad_input_workspace(Device::Cuda, g, 4)), grad_input_bytes(g, 4));
    }
  }
}

}  // namespace
}  // namespace palimpsest::gpu_geometry
