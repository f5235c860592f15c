#pragma once

// Kernels of a convolution that normalises and rectifies its input while it loads it: concat, batch normalisation, ReLU
// and convolution in one pass over memory, and their gradients in one. T = float and double. Results are the same bits
// for any number of threads, and the same whether y is kept or not.
//
// With xhat = (x - mean) * rstd:   y = max(0, gamma * xhat + beta)   z = the convolution of y with w
//
// norm_conv_* are for 1x1 kernels, z[row, k] = sum over c of y[row, c] * w[k, c], norm_conv2d_* for any other.

#include <cstddef>
#include <cstdint>

#include <palimpsest/core/kernel.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>
#include <palimpsest/ops/kernels/conv2d.hpp>

namespace palimpsest::kernels {

/// z: rows x outputs, w: outputs x channels; x is rows x channels, in `parts` tensors joined along the channels. Every
/// extent is at least 1.
struct NormConvGeometry {
  std::int64_t rows;
  std::int64_t channels;
  std::int64_t outputs;
  std::int64_t parts;
  ops::ProductOptions products = {};
};

/// One of the tensors that make up x, and what the gradient pass writes of it. All but x and channels are for the
/// gradient.
template <class T>
struct NormPart {
  const T* x = nullptr;       ///< rows x channels, dense
  std::int64_t channels = 0;  ///< of this part
  T* gradient = nullptr;      ///< rows x channels; null where nobody wants it. No two parts share one that is not null
  bool accumulate = false;    ///< add to gradient instead of overwriting it
  T* correction = nullptr;    ///< offset, then slope, of each channel: see norm_conv_correct(); null with gradient
  bool gathered = false;      ///< add to correction instead of overwriting it
};

/// True if norm_conv2d_* are worth it for this geometry: an image's y and partial sums of dw fit the caches. From the
/// geometry alone, and the same on every device.
bool norm_conv2d_fits(const Conv2dGeometry& geometry, std::size_t element_bytes);

/// Bytes of workspace on a device, 64-byte aligned, as a convolution's.
std::size_t norm_conv_forward_workspace(Device device, const NormConvGeometry& geometry, std::size_t element_bytes);
std::size_t norm_conv_backward_workspace(Device device, const NormConvGeometry& geometry, std::size_t element_bytes);
std::size_t norm_conv2d_forward_workspace(Device device, const Conv2dGeometry& geometry, std::size_t element_bytes);
std::size_t norm_conv2d_backward_workspace(Device device, const Conv2dGeometry& geometry, std::size_t element_bytes);

PALIMPSEST_KERNELS(

    /// z as above. parts: g.parts of them. n.relu must be true. y: rows x channels, or null where nobody keeps it.
    template <class T> void norm_conv_forward(const NormConvGeometry& g, const NormPart<T>* parts,
                                              const Normalization<T>& n, const T* w, T* z, T* y, T* workspace);

    /// The gradients, given dz: rows x outputs. With dy' = dz w, masked to where y is positive:
    /// part.gradient (+)= gamma * rstd * dy'; sum_dy = sum of dy', sum_dy_xhat = sum of dy' * xhat over the rows, both
    /// of g.channels elements; part.correction (+)= gamma * rstd / rows * sum_dy, and gamma * rstd / rows * rstd *
    /// sum_dy_xhat. dw (+)= dz^T y: outputs x channels; null where nobody wants it. y is null or what forward wrote.
    template <class T>
    void norm_conv_backward(const NormConvGeometry& g, const NormPart<T>* parts, const Normalization<T>& n, const T* w,
                            const T* y, const T* dz, T* dw, bool accumulate, T* sum_dy, T* sum_dy_xhat, T* workspace);

    /// The same for any convolution for which norm_conv2d_fits(): x, y are (n, h_in, w_in, c_in), in `parts` tensors
    /// joined along the channels, z, dz are (n, h_out, w_out, c_out). Pixels outside of y are zero, as in any
    /// convolution.
    template <class T> void norm_conv2d_forward(const Conv2dGeometry& g, std::int64_t parts, const NormPart<T>* part,
                                                const Normalization<T>& n, const T* w, T* z, T* y, T* workspace);
    template <class T> void norm_conv2d_backward(const Conv2dGeometry& g, std::int64_t parts, const NormPart<T>* part,
                                                 const Normalization<T>& n, const T* w, const T* y, const T* dz, T* dw,
                                                 bool accumulate, T* sum_dy, T* sum_dy_xhat, T* workspace);

    /// The rest of batch normalisation's input gradient, for all that have gathered: gradient -= offset + slope * (x -
    /// mean). x, gradient: rows x channels; mean: channels; correction: offset, then slope, of each channel.
    template <class T> void norm_conv_correct(std::int64_t rows, std::int64_t channels, const T* x, const T* mean,
                                              const T* correction, T* gradient);)

}  // namespace palimpsest::kernels
