#pragma once

// Kernels of batch normalisation (Ioffe & Szegedy 2015). Activations are channels-last: `rows` = N * H * W pixels,
// each a contiguous vector of `channels`. Instantiated for T = float and double. Results are the same bits for any
// number of threads.

#include <cstddef>
#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// The parameters of the normalisation y = gamma * (x - mean) * rstd + beta, then max(0, y) where `relu`. Each pointer
/// is to `channels` elements.
template <class T>
struct Normalization {
  const T* mean;
  const T* rstd;  // 1 / sqrt(variance + epsilon)
  const T* gamma;
  const T* beta;
  bool relu;
};

/// Bytes of workspace that batch_norm_statistics and batch_norm_reduce_gradient take on a device; from shapes only.
std::size_t batch_norm_workspace(Device device, std::int64_t rows, std::int64_t channels);

PALIMPSEST_KERNELS(

    /// Mean and biased variance of each channel over the rows, in one pass (Algorithm 1, lines 1 and 2). rows >= 1.
    /// x: rows x channels; mean, variance: channels; workspace: batch_norm_workspace(), of any
    /// content. Sums of deviations from the first row are held in double, so that the variance is good to a few units
    /// in the last place of T whatever the mean, and exactly 0 for a constant channel.
    template <class T> void batch_norm_statistics(std::int64_t rows, std::int64_t channels, const T* x, T* mean,
                                                  T* variance, double* workspace);

    /// rstd = 1 / sqrt(variance + epsilon), in place of the variance. variance: channels.
    template <class T> void batch_norm_rstd(std::int64_t channels, double epsilon, T* variance);

    /// running = (1 - momentum) * running + momentum * factor * batch, in double. running, batch: channels. On CUDA
    /// nothing changes once there has been a fault.
    template <class T>
    void batch_norm_update_running(std::int64_t channels, double momentum, double factor, const T* batch, T* running);

    /// y = gamma * (x - mean) * rstd + beta (Algorithm 1, lines 3 and 4), then max(0, y) if n.relu; NaN stays NaN.
    /// x, y: rows x channels; y may be x.
    template <class T>
    void batch_norm_forward(std::int64_t rows, std::int64_t channels, const T* x, const Normalization<T>& n, T* y);

    /// The two sums over the rows that every gradient of batch normalisation is made of: sum_dy = sum(dy'), which is
    /// beta's gradient, and sum_dy_xhat = sum(dy' * (x - mean) * rstd), which is gamma's. dy' is dy, or where n.relu dy
    /// masked to where the forward's result is positive; the mask is recomputed from x with the forward's arithmetic.
    /// x, dy: rows x channels; sum_dy, sum_dy_xhat: channels, overwritten; workspace: batch_norm_workspace().
    template <class T>
    void batch_norm_reduce_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                                    const Normalization<T>& n, T* sum_dy, T* sum_dy_xhat, double* workspace);

    /// Gradient of the input where mean and rstd are the batch's own (training):
    /// dx = gamma * rstd * (dy' - sum_dy / rows - xhat * sum_dy_xhat / rows), with xhat = (x - mean) * rstd.
    /// x, dy, dx: rows x channels; dx may be dy or x. Adds to dx where `accumulate` (then dx is neither).
    template <class T> void batch_norm_input_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                                                      const Normalization<T>& n, const T* sum_dy, const T* sum_dy_xhat,
                                                      T* dx, bool accumulate);

    /// Gradient of the input where mean and rstd are constants (evaluation): dx = gamma * rstd * dy'.
    /// As batch_norm_input_gradient; x is read only where n.relu and may otherwise be null.
    template <class T>
    void batch_norm_affine_input_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                                          const Normalization<T>& n, T* dx, bool accumulate);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_BATCH_NORM_KERNELS(T)                                                                            \
  template void batch_norm_statistics(std::int64_t, std::int64_t, const T*, T*, T*, double*);                       \
  template void batch_norm_rstd(std::int64_t, double, T*);                                                          \
  template void batch_norm_update_running(std::int64_t, double, double, const T*, T*);                              \
  template void batch_norm_forward(std::int64_t, std::int64_t, const T*, const Normalization<T>&, T*);              \
  template void batch_norm_reduce_gradient(std::int64_t, std::int64_t, const T*, const T*, const Normalization<T>&, \
                                           T*, T*, double*);                                                        \
  template void batch_norm_input_gradient(std::int64_t, std::int64_t, const T*, const T*, const Normalization<T>&,  \
                                          const T*, const T*, T*, bool);                                            \
  template void batch_norm_affine_input_gradient(std::int64_t, std::int64_t, const T*, const T*,                    \
                                                 const Normalization<T>&, T*, bool);

}  // namespace palimpsest::kernels
