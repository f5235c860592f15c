#pragma once

// Index arithmetic of kernels, of the partitions of their work and of the functions that size their workspace.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest {

using Index = std::int64_t;

PALIMPSEST_INLINE Index smaller(Index a, Index b) { return a < b ? a : b; }
PALIMPSEST_INLINE Index larger(Index a, Index b) { return a > b ? a : b; }
/// a / b, rounded up; a >= 0, b > 0.
PALIMPSEST_INLINE Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
/// The first multiple of b that is not below a; a >= 0, b > 0.
PALIMPSEST_INLINE Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

}  // namespace palimpsest
