#pragma once

// CPU kernels of the additive coupling y = x + F(z) of reversible networks (Gomez et al. 2017, "The Reversible Residual
// Network", equations 6 and 7), given f = F(z). Elementwise over `count` contiguous elements, T = float and double.
//
// On a grid, f is rounded to r(f), the nearest multiple of 2^-fraction_bits, ties to even. If x is on the grid too then
// so is y = x + r(f), and as long as |y| < 2^(24 - fraction_bits) (float; 53 for double) neither that sum nor the
// difference y - r(f) rounds: inversion gives the very bits of x. r(f) is never -0, so neither is y if x is not.
// fraction_bits is from -100 to 100. Kernels that put values on a grid return the largest |value|, so that the caller
// can check that it is below `limit`; it is NaN or infinite if any value is. On CUDA they return 0 and report a value
// that is not below `limit` as a fault; an infinite limit asks for no checks at all.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

PALIMPSEST_KERNELS(

    /// y = x + f. y may be x or f.
    template <class T> void couple_forward(std::int64_t count, const T* x, const T* f, T* y);

    /// x = y - f. x may be y or f.
    template <class T> void couple_inverse(std::int64_t count, const T* y, const T* f, T* x);

    /// y = x + r(f); returns the largest |y|, or NaN if x is not on the grid (a fault on CUDA, too). y may be x or f.
    template <class T>
    T couple_forward_on_grid(std::int64_t count, const T* x, const T* f, int fraction_bits, T limit, T* y);

    /// x = y - r(f). x may be y or f.
    template <class T> void couple_inverse_on_grid(std::int64_t count, const T* y, const T* f, int fraction_bits, T* x);

    /// y = r(x); returns the largest |y|. y may be x.
    template <class T> T round_to_grid(std::int64_t count, const T* x, int fraction_bits, T limit, T* y);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_COUPLE_KERNELS(T)                                               \
  template void couple_forward(std::int64_t, const T*, const T*, T*);              \
  template void couple_inverse(std::int64_t, const T*, const T*, T*);              \
  template T couple_forward_on_grid(std::int64_t, const T*, const T*, int, T, T*); \
  template void couple_inverse_on_grid(std::int64_t, const T*, const T*, int, T*); \
  template T round_to_grid(std::int64_t, const T*, int, T, T*);

}  // namespace palimpsest::kernels
