#pragma once

// CPU kernel of dropout (Srivastava et al. 2014), in the form that scales in training, T = float and double.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

PALIMPSEST_KERNELS(

    /// Keeps element i, scaled by 1 / (1 - probability), where unit_float(philox(seed, offset + i / 4)[i % 4]) >=
    /// probability, compared in double (so, where the word's upper 24 bits >= ceil(probability * 2^24)), else gives 0.
    /// i counts elements in memory, so the mask is a function of position alone and nothing of it need be stored. Takes
    /// ceil(count / 4) counters from offset on. 0 <= probability < 1. y may be x (unless it accumulates). The gradient
    /// is the same function of dy; adds to y where `accumulate`.
    template <class T> void dropout(std::int64_t count, const T* x, T* y, double probability, std::uint64_t seed,
                                    std::uint64_t offset, bool accumulate);)

}  // namespace palimpsest::kernels
