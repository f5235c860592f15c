#pragma once

// CPU kernels of the rectifier. Elementwise over `count` contiguous elements, T = float and double.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

PALIMPSEST_KERNELS(

    /// y = max(0, x); NaN stays NaN and -0 becomes 0. y may be x.
    template <class T> void relu_forward(std::int64_t count, const T* x, T* y);

    /// dx = dy where y > 0, else 0, from the forward's result y. dx may be dy (unless it accumulates). Adds to dx where
    /// `accumulate`.
    template <class T> void relu_backward(std::int64_t count, const T* y, const T* dy, T* dx, bool accumulate);)

}  // namespace palimpsest::kernels
