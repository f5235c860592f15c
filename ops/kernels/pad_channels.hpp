#pragma once

// CPU kernels that surround the channels of a channels-last tensor with zeros, as the shortcut of a residual unit that
// widens does (He et al. 2016, option A). T = float and double. No argument may overlap another.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

PALIMPSEST_KERNELS(

    /// x: rows x channels; y: rows x (before + channels + after), zero in the first `before` and the last `after`.
    template <class T> void pad_channels_forward(std::int64_t rows, std::int64_t channels, std::int64_t before,
                                                 std::int64_t after, const T* x, T* y);

    /// dx: rows x channels, the slice of dy: rows x (before + channels + after). Adds to dx where `accumulate`.
    template <class T> void pad_channels_backward(std::int64_t rows, std::int64_t channels, std::int64_t before,
                                                  std::int64_t after, const T* dy, T* dx, bool accumulate);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_PAD_CHANNELS_KERNELS(T)                                                                  \
  template void pad_channels_forward(std::int64_t, std::int64_t, std::int64_t, std::int64_t, const T*, T*); \
  template void pad_channels_backward(std::int64_t, std::int64_t, std::int64_t, std::int64_t, const T*, T*, bool);

}  // namespace palimpsest::kernels
