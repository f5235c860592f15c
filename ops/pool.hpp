#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// Mean of each kernel x kernel window, without padding. x: (N, C, H, W); returns (N, C, (H - kernel) / stride + 1,
/// ...), rounded down. Throws ShapeError unless a window fits, ValueError for a kernel or stride below 1, DtypeError.
Tensor avg_pool2d(const Tensor& x, std::int64_t kernel, std::int64_t stride);

/// Mean over all pixels: (N, C, H, W) -> (N, C). Throws ShapeError, DtypeError.
Tensor global_avg_pool(const Tensor& x);

/// Largest element of each window, `padding` pixels of minus infinity on every side; the gradient goes to the first
/// largest. x: (N, C, H, W). NaN is larger than everything. Throws as avg_pool2d; ValueError unless 2 * padding <=
/// kernel.
Tensor max_pool2d(const Tensor& x, std::int64_t kernel, std::int64_t stride, std::int64_t padding = 0);

}  // namespace palimpsest::ops
