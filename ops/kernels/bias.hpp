#pragma once

// CPU kernels of a bias for each channel of a channels-last tensor, and of its gradient. T = float and double.

#include <cstdint>

#include <palimpsest/core/cuda/geometry.hpp>
#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// Doubles of workspace that channel_sum takes on the CPU; from shapes only.
inline std::int64_t channel_sum_workspace(std::int64_t rows, std::int64_t channels) {
  const std::int64_t tasks = (rows + 15) / 16;  // of at least 16 rows, and no more than 64
  return channels * (tasks < 64 ? tasks : 64);
}

namespace gpu {
/// The same on CUDA.
inline std::int64_t channel_sum_workspace(std::int64_t rows, std::int64_t channels) {
  return channels * gpu_geometry::channel_reduction(rows, channels).parts;
}
}  // namespace gpu

PALIMPSEST_KERNELS(

    /// y += bias in every row. y: rows x channels; bias: channels.
    template <class T> void add_bias(std::int64_t rows, std::int64_t channels, const T* bias, T* y);

    /// sum = the sum of x over the rows. x: rows x channels; sum: channels, added to where `accumulate`; workspace:
    /// channel_sum_workspace(rows, channels) doubles, of any content.
    template <class T>
    void channel_sum(std::int64_t rows, std::int64_t channels, const T* x, T* sum, bool accumulate, double* workspace);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_BIAS_KERNELS(T)                                  \
  template void add_bias(std::int64_t, std::int64_t, const T*, T*); \
  template void channel_sum(std::int64_t, std::int64_t, const T*, T*, bool, double*);

}  // namespace palimpsest::kernels
