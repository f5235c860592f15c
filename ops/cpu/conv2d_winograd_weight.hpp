#pragma once

// The weight gradient of a 3x3 convolution of stride 1 by Winograd's algorithm, for kernel files. The convolution is
// y = A^T [(G g G^T) * (B^T d B)] A for each tile, so that with V = B^T d B and W = A dy A^T the gradient of g is
// G^T [sum over tiles of W * V] G: for each frequency a sum of outer products, over a fourth as many terms. A task sums
// some tiles for a block of input and a block of output channels.

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/cpu/conv2d_outer.hpp>
#include <palimpsest/ops/cpu/winograd_tiles.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr Index factors_bytes = 576 * 1024;  // of a panel's V and W

template <class T>
struct WinogradWeight {
  Images<T> x, dy;
  TileGrid grid;
  WinogradBlocks blocks;
};

template <class T>
WinogradWeight<T> winograd_weight_problem(const Conv2dGeometry& g, const T* x, const T* dy) {
  return {{x, g.h_in, g.w_in, g.c_in, g.pad_top, g.pad_left},
          {dy, g.h_out, g.w_out, g.c_out, 0, 0},
          tile_grid(g.n, g.h_out, g.w_out),
          winograd_blocks(g)};
}

/// The sums of one block: element (frequency f, output channel k, input channel c) is at
/// first + (f * outputs.size() + k) * pitch + c of a chunk's sums.
template <class T>
struct WinogradBlock {
  Range inputs, outputs;
  Index pitch;
  Index first;
};

template <class T>
WinogradBlock<T> winograd_block(const WinogradWeight<T>& p, Index block) {
  const Index c = block / p.blocks.k_blocks * p.blocks.c;
  const Index k = block % p.blocks.k_blocks * p.blocks.k;
  const Range inputs = {c, smaller(p.x.channels, c + p.blocks.c)};
  const Range outputs = {k, smaller(p.dy.channels, k + p.blocks.k)};
  const Index pitch = round_up(inputs.size(), lanes<T>);
  return {inputs, outputs, pitch, winograd_frequencies * (c * p.dy.channels + k * pitch)};
}

/// Adds some tiles to a block's sums; `first` overwrites them.
template <class T>
[[gnu::noinline]] void add_winograd_tiles(const WinogradWeight<T>& p, const WinogradBlock<T>& block, Range tiles,
                                          T* sums, bool first) {
  constexpr Index room = matrices_room<T>(factors_bytes) + matrices_room<T>(0);
  alignas(64) T factors[room];
  const Index k_pitch = round_up(block.outputs.size(), lanes<T>);
  const Index fit = factors_bytes / static_cast<Index>(sizeof(T)) / winograd_frequencies / (block.pitch + k_pitch);
  for (Index begin = tiles.begin; begin < tiles.end; begin += fit) {
    const Range panel = {begin, smaller(tiles.end, begin + fit)};
    const Range next = {panel.end, smaller(tiles.end, panel.end + fit)};
    const TileMatrices<T> v = {factors, frequency_step<T>(panel.size(), block.pitch), block.pitch};
    const TileMatrices<T> w = {factors + winograd_frequencies * v.step, frequency_step<T>(panel.size(), k_pitch),
                               k_pitch};
    transform_patches(p.x, p.grid, panel, block.inputs, v);
    transform_output_gradients(p.dy, p.grid, panel, block.outputs, w);
    const Factor scalars = {block.outputs.size(), 0, 0, k_pitch};
    const Factor vectors = {block.pitch, 0, 0, block.pitch};
    for (Index f = 0; f < winograd_frequencies; ++f) {
      outer_product(Pixels{1, 1, panel.size()}, scalars, vectors, {0, block.outputs.size()}, w.data + f * w.step,
                    v.data + f * v.step, sums + block.first + f * block.outputs.size() * block.pitch,
                    first && begin == tiles.begin, Upcoming{});
      const Range due = even_part(next.size(), f, winograd_frequencies);
      for (Index tile = next.begin + due.begin; tile < next.begin + due.end; ++tile) {
        const TilePlace at = tile_place(p.grid, tile);
        prefetch_tile<T, false>(p.x, at, winograd_in - winograd_out, block.inputs);
        prefetch_tile<T, false>(p.dy, at, 0, block.outputs);
      }
    }
  }
}

/// Adds all tiles to all blocks' sums.
template <class T>
void add_winograd(const Conv2dGeometry& g, const T* x, const T* dy, T* sums, bool first) {
  const WinogradWeight<T> p = winograd_weight_problem(g, x, dy);
  for (Index block = 0; block < p.blocks.c_blocks * p.blocks.k_blocks; ++block) {
    add_winograd_tiles(p, winograd_block(p, block), {0, p.grid.count()}, sums, first);
  }
}

/// dw (+)= G^T (the sum of the chunks' sums) G.
template <class T>
void reduce_winograd(const WinogradWeight<T>& p, const T* sums, Index partial, Index chunks, T* dw, bool accumulate) {
  const Index channels = p.x.channels;
  parallel_for(p.blocks.c_blocks * p.dy.channels, [&](Index task) {
    const Index k = task % p.dy.channels;
    const Index index = task / p.dy.channels * p.blocks.k_blocks + k / p.blocks.k;
    const WinogradBlock<T> block = winograd_block(p, index);
    const Index step = block.outputs.size() * block.pitch;
    const T* const from = sums + block.first + (k - block.outputs.begin) * block.pitch;
    for (Index c = 0; c < block.inputs.size(); c += lanes<T>) {
      const int count = static_cast<int>(smaller(lanes<T>, block.inputs.size() - c));
      T* const to = dw + k * 9 * channels + block.inputs.begin + c;
      transform_both<T, winograd_in, 3>(
          [](const auto& frequencies, auto& taps) { transform_kernel_gradient<T>(frequencies, taps); },
          [&](int r, int s) {
            const T* const at = from + (r * winograd_in + s) * step + c;
            simd::Vector<T> sum = simd::load<T>(at);
            for (Index chunk = 1; chunk < chunks; ++chunk) sum += simd::load<T>(at + chunk * partial);
            return sum;
          },
          [&](int r, int s, simd::Vector<T> value) {
            T* const tap = to + (r * 3 + s) * channels;
            if (accumulate) value += simd::load_partial<T>(tap, count);
            simd::store_partial<T>(tap, value, count);
          });
    }
  });
}

template <class T>
void winograd_grad_weight(const Conv2dGeometry& g, const T* x, const T* dy, T* dw, bool accumulate, T* workspace) {
  const WinogradWeight<T> p = winograd_weight_problem(g, x, dy);
  const Index chunks = winograd_weight_chunks(g);
  const Index blocks = p.blocks.c_blocks * p.blocks.k_blocks;
  parallel_for(chunks * blocks, [&](Index task) {
    const Index chunk = task / blocks;
    add_winograd_tiles(p, winograd_block(p, task % blocks), even_part(p.grid.count(), chunk, chunks),
                       workspace + chunk * p.blocks.partial, true);
  });
  reduce_winograd(p, workspace, p.blocks.partial, chunks, dw, accumulate);
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
