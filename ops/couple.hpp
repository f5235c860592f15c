#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// The numbers that a stream is made of: multiples of 2^-bits.
struct Grid {
  Grid(int fraction_bits, Tensor magnitudes = {}, std::int64_t stage_number = 0)
      : bits(fraction_bits), largest(std::move(magnitudes)), stage(stage_number) {}

  int bits;
  /// (stages), of the stream's type: where a recorded coupling notes in its first forward the largest magnitude of its
  /// sums, should that be above the one that is there; see StageGrids. Empty: nowhere.
  Tensor largest;
  std::int64_t stage;  ///< its place there
};

/// The additive coupling y = x + f of a reversible network (Gomez et al. 2017, equation 6), f being a residual function
/// of another stream. It can be solved for x: under a reversible memory policy x is not kept but computed from y and f.
///
/// `grid`: f is rounded to the nearest multiple of 2^-bits, its gradient passed straight through. x must be on the grid
/// (round_to_grid): sums are then exact while |y| < 2^(24 - bits) in float32, 2^(53 - bits) in float64, and solving
/// returns the very bits of x. Without it x is solved up to rounding. Works in f's memory where the caller has moved f
/// in. If y leaves the exact range it is the rounded sum, and x is kept instead of solved for. On CUDA the host learns
/// of it when it reads next, at the end of backward at the latest: that throws a RangeError, the step is undone, and
/// when it is taken again the blocks know which streams to keep. An op that is not recorded checks nothing. Throws
/// ShapeError, DtypeError; ValueError unless 0 <= bits <= 23 (52 in float64) and x is on the grid.
Tensor couple(Tensor x, Tensor f, std::optional<Grid> grid = std::nullopt);

/// x rounded to the nearest multiple of 2^-grid, ties to even; the gradient is passed straight through. Throws
/// DtypeError and, for the grid, ValueError as couple.
Tensor round_to_grid(Tensor x, int grid);

}  // namespace palimpsest::ops
