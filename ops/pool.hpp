#pragma once

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/ops/padding.hpp>

namespace palimpsest::ops {

/// Mean of each kernel x kernel window, without padding. x: (N, C, H, W); returns (N, C, (H - kernel) / stride + 1,
/// ...), rounded down. Throws ShapeError unless a window fits, ValueError for a kernel or stride below 1, DtypeError.
Tensor avg_pool2d(const Tensor& x, std::int64_t kernel, std::int64_t stride);

/// Each pixel as a square of factor x factor pixels: (N, C, H, W) -> (N, C, H * factor, W * factor). Throws ShapeError,
/// ValueError for a factor below 1, DtypeError.
Tensor upsample_nearest2d(const Tensor& x, std::int64_t factor);

/// Mean over all pixels: (N, C, H, W) -> (N, C). Throws ShapeError, DtypeError.
Tensor global_avg_pool(const Tensor& x);

/// Largest element of each window, minus infinity in the padding; the gradient goes to the first largest. x: (N, C, H,
/// W); returns (N, C, (H + top + bottom - kernel) / stride + 1, ...), rounded down. NaN is larger than everything.
/// Throws as avg_pool2d; ValueError for a side of the padding that is negative or more than half the kernel.
Tensor max_pool2d(const Tensor& x, std::int64_t kernel, std::int64_t stride, const Padding& padding = {});

}  // namespace palimpsest::ops
