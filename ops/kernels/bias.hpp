#pragma once

// CPU kernels of a bias for each channel of a channels-last tensor, and of its gradient. T = float and double.

#include <cstddef>
#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// Bytes of workspace that channel_sum takes on a device: partial sums in double. From shapes only.
std::size_t channel_sum_workspace(Device device, std::int64_t rows, std::int64_t channels);

PALIMPSEST_KERNELS(

    /// y += bias in every row. y: rows x channels; bias: channels.
    template <class T> void add_bias(std::int64_t rows, std::int64_t channels, const T* bias, T* y);

    /// sum = the sum of x over the rows. x: rows x channels; sum: channels, added to where `accumulate`; workspace:
    /// channel_sum_workspace(), of any content.
    template <class T>
    void channel_sum(std::int64_t rows, std::int64_t channels, const T* x, T* sum, bool accumulate, double* workspace);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_BIAS_KERNELS(T)                                  \
  template void add_bias(std::int64_t, std::int64_t, const T*, T*); \
  template void channel_sum(std::int64_t, std::int64_t, const T*, T*, bool, double*);

}  // namespace palimpsest::kernels
