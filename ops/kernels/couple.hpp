#pragma once

// CPU kernels of the additive coupling y = x + F(z) of reversible networks (Gomez et al. 2017, "The Reversible Residual
// Network", equations 6 and 7), given f = F(z). Elementwise over `count` contiguous elements, T = float and double.
//
// On a grid, f is rounded to r(f), the nearest multiple of 2^-fraction_bits, ties to even. If x is on the grid too then
// so is y = x + r(f), and as long as |y| < 2^(24 - fraction_bits) (float; 53 for double) neither that sum nor the
// difference y - r(f) rounds: inversion gives the very bits of x. r(f) is never -0, so neither is y if x is not.
// fraction_bits is from -100 to 100.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// The things that a run of a coupling on a grid is to tell beside its sums.
template <class T>
struct GridWatch {
  bool checks = false;         ///< CUDA: an x that is not on the grid is a fault
  unsigned* mark = nullptr;    ///< CUDA: set where a |y| is not below `limit`; null: nowhere
  bool mark_is_fault = false;  ///< CUDA: that is a fault, too
  T limit = 0;
  T* largest = nullptr;  ///< takes the largest |y| where that is above what is there; null: nothing does
};

PALIMPSEST_KERNELS(

    /// y = x + f. y may be x or f.
    template <class T> void couple_forward(std::int64_t count, const T* x, const T* f, T* y);

    /// x = y - f. x may be y or f.
    template <class T> void couple_inverse(std::int64_t count, const T* y, const T* f, T* x);

    /// y = x + r(f). Returns the largest |y|; NaN or infinite if any is, NaN if x is not on the grid. On CUDA it
    /// returns 0. y may be x or f.
    template <class T> T couple_forward_on_grid(std::int64_t count, const T* x, const T* f, int fraction_bits,
                                                const GridWatch<T>& watch, T* y);

    /// x = y - r(f). x may be y or f.
    template <class T> void couple_inverse_on_grid(std::int64_t count, const T* y, const T* f, int fraction_bits, T* x);

    /// y = r(x). y may be x.
    template <class T> void round_to_grid(std::int64_t count, const T* x, int fraction_bits, T* y);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_COUPLE_KERNELS(T)                                                                 \
  template void couple_forward(std::int64_t, const T*, const T*, T*);                                \
  template void couple_inverse(std::int64_t, const T*, const T*, T*);                                \
  template T couple_forward_on_grid(std::int64_t, const T*, const T*, int, const GridWatch<T>&, T*); \
  template void couple_inverse_on_grid(std::int64_t, const T*, const T*, int, T*);                   \
  template void round_to_grid(std::int64_t, const T*, int, T*);

}  // namespace palimpsest::kernels
