#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// Mean of each kernel x kernel window, without padding. x: (N, C, H, W); returns (N, C, (H - kernel) / stride + 1,
/// ...), rounded down. Throws ShapeError unless a window fits, ValueError for a kernel or stride below 1, DtypeError.
Tensor avg_pool2d(const Tensor& x, std::int64_t kernel, std::int64_t stride);

/// Each pixel as a square of factor x factor pixels: (N, C, H, W) -> (N, C, H * factor, W * factor). Throws ShapeError,
/// ValueError for a factor below 1, DtypeError.
Tensor upsample_nearest2d(const Tensor& x, std::int64_t factor);

/// Mean over all pixels: (N, C, H, W) -> (N, C). Throws ShapeError, DtypeError.
Tensor global_avg_pool(const Tensor& x);

/// Largest element of each window, `padding` pixels of minus infinity on every side; the gradient goes to the first
/// largest. x: (N, C, H, W). NaN is larger than everything. Throws as avg_pool2d; ValueError unless 2 * padding <=
/// kernel.
Tensor max_pool2d(const Tensor& x, std::int64_t kernel, std::int64_t stride, std::int64_t padding = 0);

}  // namespace palimpsest::ops
