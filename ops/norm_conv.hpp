#pragma once

#include <memory>
#include <vector>

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/ops/batch_norm_op.hpp>
#include <palimpsest/ops/conv2d.hpp>

namespace palimpsest::ops {

/// The convolution of what a normalisation that waits would return: that, the concat before it and the convolution
/// become one op, which needs none of the results in between. For conv2d(), which has checked the shapes, knows that of
/// the result, `output`, and that the kernels take the geometry (kernels::norm_conv2d_fits). `inputs`: those of the
/// normalisation. Returns what conv2d() does.
Tensor norm_conv(std::unique_ptr<BatchNorm> norm, std::vector<Tensor> inputs, const Tensor& weight,
                 const Conv2dOptions& spec, const Shape& output);

}  // namespace palimpsest::ops
