#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// Zero channels before and after those of x, as the shortcut of a residual unit that widens (He et al. 2016, option
/// A). x: (N, C, H, W) or (N, C). Throws ValueError for a negative number, ShapeError, DtypeError.
Tensor pad_channels(const Tensor& x, std::int64_t before, std::int64_t after);

}  // namespace palimpsest::ops
