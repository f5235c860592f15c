#pragma once

// Kernels of the mean squared error, T = float and double; count >= 1.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>
#include <palimpsest/ops/kernels/tensor_list.hpp>

namespace palimpsest::kernels {

PALIMPSEST_KERNELS(

    /// *loss = the mean of (x - target)^2, computed in double. `partial`: room for reduction_blocks(count) doubles on
    /// CUDA, null on the CPU.
    template <class T> void mse_forward(std::int64_t count, const T* x, const T* target, double* partial, T* loss);

    /// dx = 2 (x - target) / count * *upstream. Adds to dx where `accumulate`. The gradient of the target is that of x
    /// with the two exchanged.
    template <class T>
    void mse_backward(std::int64_t count, const T* x, const T* target, const T* upstream, T* dx, bool accumulate);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_MSE_KERNELS(T)                                           \
  template void mse_forward(std::int64_t, const T*, const T*, double*, T*); \
  template void mse_backward(std::int64_t, const T*, const T*, const T*, T*, bool);

}  // namespace palimpsest::kernels
