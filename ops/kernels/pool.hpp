#pragma once

// CPU kernels of pooling over channels-last tensors, T = float and double. Results are the same bits for any number of
// threads, overlapping windows included.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// x: (n, height, width, channels); y: (n, out_height, out_width, channels), both channels-last. Window (i, j) covers
/// rows i * stride - pad_top to i * stride - pad_top + kernel - 1 and columns likewise; padding at the bottom and the
/// right follows from out_height and out_width. The caller sees to kernel, stride >= 1, a padding of 0 to kernel / 2 on
/// each side (0 for averages) and out_height, out_width >= 1.
struct PoolShape {
  std::int64_t n;
  std::int64_t height;
  std::int64_t width;
  std::int64_t channels;
  std::int64_t kernel;
  std::int64_t stride;
  std::int64_t pad_top;
  std::int64_t pad_left;
  std::int64_t out_height;
  std::int64_t out_width;
};

PALIMPSEST_KERNELS(

    /// y = `share` times the sum of each window: an average's forward, an upsampling's gradient. There is no padding.
    /// Adds to y where `accumulate`.
    template <class T> void sum_windows(const PoolShape& shape, T share, const T* x, T* y, bool accumulate);

    /// x = `share` times the sum of y over the windows that an element is in: an average's gradient, an upsampling's
    /// forward. There is no padding. Adds to x where `accumulate`.
    template <class T> void spread_windows(const PoolShape& shape, T share, const T* y, T* x, bool accumulate);

    /// y: n x channels, the mean of x: n x pixels x channels over the pixels, summed in double.
    template <class T>
    void global_avg_pool_forward(std::int64_t n, std::int64_t pixels, std::int64_t channels, const T* x, T* y);

    /// dx: n x pixels x channels = dy / pixels, from dy: n x channels. Adds to dx where `accumulate`.
    template <class T> void global_avg_pool_backward(std::int64_t n, std::int64_t pixels, std::int64_t channels,
                                                     const T* dy, T* dx, bool accumulate);

    /// y = the largest element of each window, NaN if it holds one. The padding is never the largest.
    template <class T> void max_pool2d_forward(const PoolShape& shape, const T* x, T* y);

    /// dx, of x's shape: dy of each window goes to its first largest element in row-major order (its first NaN, if it
    /// holds one), found again from x. Adds to dx where `accumulate`.
    template <class T>
    void max_pool2d_backward(const PoolShape& shape, const T* x, const T* dy, T* dx, bool accumulate);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_POOL_KERNELS(T)                                                                      \
  template void sum_windows(const PoolShape&, T, const T*, T*, bool);                                   \
  template void spread_windows(const PoolShape&, T, const T*, T*, bool);                                \
  template void global_avg_pool_forward(std::int64_t, std::int64_t, std::int64_t, const T*, T*);        \
  template void global_avg_pool_backward(std::int64_t, std::int64_t, std::int64_t, const T*, T*, bool); \
  template void max_pool2d_forward(const PoolShape&, const T*, T*);                                     \
  template void max_pool2d_backward(const PoolShape&, const T*, const T*, T*, bool);

}  // namespace palimpsest::kernels
