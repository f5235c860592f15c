#pragma once

#include <memory>
#include <vector>

#include "autograd/tensor.hpp"
#include "ops/batch_norm_op.hpp"

namespace palimpsest::ops {

/// The 1x1 convolution, with stride 1 and no padding, of what a deferred normalisation would return: that, the concat
/// before it and the convolution become one op, which needs none of the results in between. For conv2d(), which has
/// checked the shapes. `inputs`: those of the normalisation. Returns what conv2d() does.
Tensor norm_conv(std::unique_ptr<BatchNorm> norm, std::vector<Tensor> inputs, const Tensor& weight);

}  // namespace palimpsest::ops
