#pragma once

// 3x3 convolution of stride 1 by Winograd's algorithm, for kernel files. A panel of tiles at a time: their patches are
// transformed, each frequency's matrix is multiplied with that of the transformed weights by the direct kernel's
// register tiles, and the products are transformed back. A panel is on the stack and stays in the second-level cache.
// Outputs have the same bits however tiles are put into panels.

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/cpu/conv2d_channels.hpp>
#include <palimpsest/ops/cpu/winograd_tiles.hpp>
#include <palimpsest/ops/kernels/conv2d_problem.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

constexpr Index patches_bytes = 576 * 1024;   // of a panel's transformed patches
constexpr Index products_bytes = 144 * 1024;  // of its products, for a group of output channels at a time
constexpr Index most_panel_tiles = 64;

/// How a problem is cut.
struct WinogradTiling {
  TileGrid grid;
  Index panels;  // that all tiles are cut into
  Index groups;  // that the blocks of output vectors are cut into
};

/// The output vectors of a group of output blocks.
template <class T>
Range group_vectors(const Problem<T>& p, Range blocks) {
  return {output_block(p, blocks.begin).begin, output_block(p, blocks.end - 1).end};
}

/// As few groups as leave each no more than so many outputs, or one block.
template <class T>
Index output_groups(const Problem<T>& p, Index most_outputs) {
  const Index blocks = output_blocks(p);
  const auto widest = [&](Index groups) {
    Index vectors = 0;
    for (Index i = 0; i < groups; ++i) vectors = larger(vectors, group_vectors(p, even_part(blocks, i, groups)).size());
    return vectors * lanes<T>;
  };
  Index groups = 1;
  while (groups < blocks && widest(groups) > most_outputs) ++groups;
  return groups;
}

template <class T>
WinogradTiling choose_winograd_tiling(const Problem<T>& p) {
  constexpr Index element = static_cast<Index>(sizeof(T)) * winograd_frequencies;
  const Index outputs = smaller(output_vectors(p), max_vectors) * lanes<T>;
  const Index fit = smaller(patches_bytes / element / round_up(p.c_in, lanes<T>), products_bytes / element / outputs);
  const Index tiles = smaller(most_panel_tiles, fit / 8 * 8);
  const TileGrid grid = tile_grid(p.n, p.h_out, p.w_out);
  return {grid, ceil_div(grid.count(), tiles), output_groups(p, products_bytes / element / tiles)};
}

/// U = G g G^T for a vector of weights, of which `count` exist: element (r, s) of g is at from + r * r_step + s *
/// s_step, frequency f goes to to + f * step.
template <class T>
void transform_weights(const WeightView<T>& view, const T* from, int count, T* to, Index step) {
  simd::Vector<T> columns[3][winograd_in];
#pragma GCC unroll 8
  for (int s = 0; s < 3; ++s) {
    simd::Vector<T> tap[3];
#pragma GCC unroll 8
    for (int r = 0; r < 3; ++r) tap[r] = simd::load_partial<T>(from + r * view.r_step + s * view.s_step, count);
    transform_kernel<T>(tap, columns[s]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < winograd_in; ++r) {
    const simd::Vector<T> row[3] = {columns[0][r], columns[1][r], columns[2][r]};
    simd::Vector<T> frequency[winograd_in];
    transform_kernel<T>(row, frequency);
#pragma GCC unroll 8
    for (int s = 0; s < winograd_in; ++s) simd::store<T>(to + (r * winograd_in + s) * step, frequency[s]);
  }
}

/// Transforms the weights of a vector of outputs, of which `outputs` exist: frequency f of input channel c goes to
/// to + f * step + c * width.
template <class T>
void pack_winograd_vector(const WeightView<T>& view, const T* from, Index channels, int outputs, T* to, Index step,
                          Index width) {
  constexpr Index size = lanes<T>;
  if (view.o_step == 1) {
    for (Index c = 0; c < channels; ++c) {
      transform_weights(view, from + c * view.c_step, outputs, to + c * width, step);
    }
    return;
  }
  alignas(64) T turned[winograd_frequencies * size * size] = {};  // frequency, output, channel
  for (Index c = 0; c < channels; c += size) {
    const int count = static_cast<int>(smaller(size, channels - c));
    for (int o = 0; o < outputs; ++o) {
      transform_weights(view, from + o * view.o_step + c, count, turned + o * size, size * size);
    }
    for (Index f = 0; f < winograd_frequencies; ++f) {
      simd::transpose_block(turned + f * size * size, size, size, count, to + f * step + c * width, width);
    }
  }
}

/// Packs the weights: for each block of output vectors (frequency, channel, lane).
template <class T>
void pack_winograd(const Problem<T>& p, const WeightView<T>& view) {
  parallel_for(output_blocks(p), [&](Index block) {
    const Range vectors = output_block(p, block);
    const Index width = vectors.size() * lanes<T>;
    T* const to = p.packed + winograd_frequencies * p.c_in * vectors.begin * lanes<T>;
    for (Index v = 0; v < vectors.size(); ++v) {
      const Index output = (vectors.begin + v) * lanes<T>;
      pack_winograd_vector(view, view.w + output * view.o_step, p.c_in,
                           static_cast<int>(smaller(lanes<T>, p.c_out - output)), to + v * lanes<T>, p.c_in * width,
                           width);
    }
  });
}

/// A^T m A of a vector of outputs, of which `count` exist where `Partial`: to the `rows` x `cols` outputs that are
/// inside of y.
template <class T, bool Partial>
[[gnu::always_inline]] inline void store_tile(const Problem<T>& p, const T* from, Index step, T* y, Index rows,
                                              Index cols, int count) {
  transform_both<T, winograd_in, winograd_out>(
      [](const auto& m, auto& result) { transform_output<T>(m, result); },
      [&](int r, int s) { return simd::load<T>(from + (r * winograd_in + s) * step); },
      [&](int i, int j, simd::Vector<T> value) {
        if (i >= rows || j >= cols) return;
        T* const to = y + i * p.y_row + j * p.y_pixel;
        if constexpr (Partial) {
          if (p.accumulate) value += simd::load_partial<T>(to, count);
          simd::store_partial<T>(to, value, count);
        } else {
          simd::store<T>(to, p.accumulate ? value + simd::load<T>(to) : value);
        }
      });
}

/// Writes the outputs of some tiles and output vectors.
template <class T>
void store_tiles(const Problem<T>& p, const TileGrid& grid, Range tiles, Range vectors, const TileMatrices<T>& from) {
  const Index first = vectors.begin * lanes<T>;
  const Index outputs = smaller(vectors.size() * lanes<T>, p.c_out - first);
  const T* products = from.data;
  for (Index tile = tiles.begin; tile < tiles.end; ++tile, products += from.pitch) {
    const TilePlace at = tile_place(grid, tile);
    T* const y = p.y + at.image * p.y_image + at.row * p.y_row + at.col * p.y_pixel + first;
    const Index rows = p.h_out - at.row;
    const Index cols = p.w_out - at.col;
    Index o = 0;
    for (; o + lanes<T> <= outputs; o += lanes<T>) {
      store_tile<T, false>(p, products + o, from.step, y + o, rows, cols, lanes<T>);
    }
    if (o < outputs) {
      store_tile<T, true>(p, products + o, from.step, y + o, rows, cols, static_cast<int>(outputs - o));
    }
  }
}

/// products[tile, output] = patches[tile, channel] times weights, for a block of output vectors and one frequency.
template <class T>
void multiply_frequency(const TileShape& shape, Index vectors, Index tiles, const T* patches, const T* weights,
                        T* products) {
  const Segment segment = {tiles, false, false};
  switch (vectors) {
    case 1:
      return tile_segment<T, 1>(shape, segment, patches, 1, weights, products);
    case 2:
      return tile_segment<T, 2>(shape, segment, patches, 1, weights, products);
    default:
      return tile_segment<T, 3>(shape, segment, patches, 1, weights, products);
  }
}

/// The panel after this one: a few of its tiles' memory is asked for between products.
template <class T>
class NextPanel {
 public:
  NextPanel(const Problem<T>& p, const Images<T>& x, const TileGrid& grid, Range tiles, Index calls)
      : p_(p), x_(x), grid_(grid), tiles_(tiles), calls_(calls) {}

  /// To be called `calls` times.
  void prefetch() {
    ++called_;
    for (; asked_ < called_ * tiles_.size() / calls_; ++asked_) {
      const TilePlace at = tile_place(grid_, tiles_.begin + asked_);
      prefetch_tile<T, false>(x_, at, winograd_in - winograd_out, {0, p_.c_in});
      if (dense()) prefetch_tile<T, true>({p_.y, p_.h_out, p_.w_out, p_.c_out, 0, 0}, at, 0, {0, p_.c_out});
    }
  }

 private:
  bool dense() const { return p_.y_pixel == p_.c_out && p_.y_row == p_.w_out * p_.y_pixel; }

  const Problem<T>& p_;
  const Images<T>& x_;
  const TileGrid& grid_;
  Range tiles_;
  Index calls_;
  Index called_ = 0;
  Index asked_ = 0;
};

/// The weights are packed.
template <class T>
void convolve_winograd(const Problem<T>& p) {
  constexpr Index patches_room = matrices_room<T>(patches_bytes);
  constexpr Index products_room = matrices_room<T>(products_bytes);
  const WinogradTiling tiling = choose_winograd_tiling(p);
  const Images<T> x = {p.x, p.h_in, p.w_in, p.c_in, p.pad_top, p.pad_left};
  const Index all_tiles = tiling.grid.count();
  const Index all_blocks = output_blocks(p);
  parallel_for(tiling.panels, [&](Index panel) {
    alignas(64) T patches_data[patches_room];
    alignas(64) T products_data[products_room];
    const Range tiles = even_part(all_tiles, panel, tiling.panels);
    const Range next_tiles = {
        tiles.end, panel + 1 < tiling.panels ? even_part(all_tiles, panel + 1, tiling.panels).end : tiles.end};
    NextPanel<T> next(p, x, tiling.grid, next_tiles, winograd_frequencies * all_blocks);
    TileMatrices<T> patches = {patches_data, 0, round_up(p.c_in, lanes<T>)};
    patches.step = frequency_step<T>(tiles.size(), patches.pitch);
    transform_patches(x, tiling.grid, tiles, {0, p.c_in}, patches);
    for (Index group = 0; group < tiling.groups; ++group) {
      const Range blocks = even_part(all_blocks, group, tiling.groups);
      const Range vectors = group_vectors(p, blocks);
      TileMatrices<T> products = {products_data, 0, vectors.size() * lanes<T>};
      products.step = frequency_step<T>(tiles.size(), products.pitch);
      TileShape shape = {};
      shape.x_pixel = patches.pitch;
      shape.run = p.c_in;
      shape.y_pixel = products.pitch;
      shape.last_lanes = lanes<T>;
      for (Index f = 0; f < winograd_frequencies; ++f) {
        for (Index block = blocks.begin; block < blocks.end; ++block) {
          const Range part = output_block(p, block);
          const T* const weights = p.packed + (winograd_frequencies * part.begin + f * part.size()) * p.c_in * lanes<T>;
          multiply_frequency(shape, part.size(), tiles.size(), patches.data + f * patches.step, weights,
                             products.data + f * products.step + (part.begin - vectors.begin) * lanes<T>);
          next.prefetch();
        }
      }
      store_tiles(p, tiling.grid, tiles, vectors, products);
    }
  });
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
