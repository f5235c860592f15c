#pragma once

// CPU kernels of 2-D convolution (cross-correlation, as in every deep-learning framework), T = float and double.
// Direct, channels-last: no im2col copy of the activations is made. Results are the same bits for any number of
// threads.
//
// Layouts, all dense:   x, dx: (n, h_in, w_in, c_in)   y, dy: (n, h_out, w_out, c_out)
//                       w, dw: (c_out, kernel_h, kernel_w, c_in)
//
// The kernels allocate nothing and throw nothing; the caller sees to valid arguments. `workspace` is scratch of any
// content, 64-byte aligned, of conv2d_*_workspace bytes. They keep up to 800 KiB on the stack of each thread.

#include <cstddef>
#include <cstdint>

#include <palimpsest/core/kernel.hpp>
#include <palimpsest/ops/product.hpp>

namespace palimpsest::kernels {

/// y[n, i, j, o] = sum over (r, s, c) of x[n, i * stride_h + r - pad_top, j * stride_w + s - pad_left, c] * w[o, r, s,
/// c], with zeros outside of x. Padding at the bottom and the right follows from h_out and w_out. Every extent and
/// stride is at least 1; a pad may be anything, also larger than the kernel or negative (a crop).
struct Conv2dGeometry {
  std::int64_t n;
  std::int64_t c_in;
  std::int64_t h_in;
  std::int64_t w_in;
  std::int64_t c_out;
  std::int64_t h_out;
  std::int64_t w_out;
  std::int64_t kernel_h;
  std::int64_t kernel_w;
  std::int64_t stride_h;
  std::int64_t stride_w;
  std::int64_t pad_top;
  std::int64_t pad_left;
  ops::ProductOptions products = {};
};

/// True if each output sees one pixel, its own: the convolution is one matrix product, whose columns are the input.
PALIMPSEST_INLINE bool is_pointwise(const Conv2dGeometry& g) {
  return g.kernel_h == 1 && g.kernel_w == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top == 0 &&
         g.pad_left == 0 && g.h_in == g.h_out && g.w_in == g.w_out;
}

/// Bytes of workspace that the kernels below take on a device, a meta device's being those of the one it stands for. A
/// function of the geometry and the element's size alone: not of the instruction set or the number of threads. On the
/// CPU forward and data gradient hold the weights there, packed into blocks of output channels (about as many elements
/// as w, four times as many for Winograd's algorithm), and the weight gradient up to 16 partial sums of dw; on CUDA it
/// holds columns and what cuBLAS needs.
std::size_t conv2d_forward_workspace(Device device, const Conv2dGeometry& geometry, std::size_t element_bytes);
std::size_t conv2d_grad_input_workspace(Device device, const Conv2dGeometry& geometry, std::size_t element_bytes);
std::size_t conv2d_grad_weight_workspace(Device device, const Conv2dGeometry& geometry, std::size_t element_bytes);

PALIMPSEST_KERNELS(

    /// y = the convolution of x with w.
    template <class T> void conv2d_forward(const Conv2dGeometry& geometry, const T* x, const T* w, T* y, T* workspace);

    /// dx = the gradient of x, given dy. Adds to dx where `accumulate`.
    template <class T> void conv2d_grad_input(const Conv2dGeometry& geometry, const T* dy, const T* w, T* dx,
                                              bool accumulate, T* workspace);

    /// dw = the gradient of w, given dy. Adds to dw where `accumulate`. The sum over pixels is split into a number of
    /// parts that the geometry fixes, added in a fixed order.
    template <class T> void conv2d_grad_weight(const Conv2dGeometry& geometry, const T* x, const T* dy, T* dw,
                                               bool accumulate, T* workspace);)

}  // namespace palimpsest::kernels
