#pragma once

#include <optional>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// The additive coupling y = x + f of a reversible network (Gomez et al. 2017, equation 6), f being a residual function
/// of another stream. It can be solved for x: under a reversible memory policy x is not kept but computed from y and f.
///
/// `grid`: f is rounded to the nearest multiple of 2^-grid, its gradient passed straight through. x must be on the grid
/// (round_to_grid): sums are then exact while |y| < 2^(24 - grid) in float32, 2^(53 - grid) in float64, and solving
/// returns the very bits of x. Without it x is solved up to rounding. Works in f's memory where the caller has moved f
/// in. If y leaves the exact range it is the rounded sum, and x is kept instead of solved for; on CUDA, where the host
/// learns of it too late, that is a RangeError. An op that is not recorded checks nothing. Throws ShapeError,
/// DtypeError; ValueError unless 0 <= grid <= 23 (52 in float64) and x is on the grid.
Tensor couple(Tensor x, Tensor f, std::optional<int> grid = std::nullopt);

/// x rounded to the nearest multiple of 2^-grid, ties to even; the gradient is passed straight through. Throws
/// DtypeError and, for the grid, ValueError as couple.
Tensor round_to_grid(Tensor x, int grid);

}  // namespace palimpsest::ops
