#pragma once

#include <span>
#include <vector>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// Joins tensors along the channels: (N, C_i, H, W) each, or (N, C_i). Returns (N, sum of C_i, H, W). A single input is
/// returned as it is. While a step is recorded the result is made when it is first read; a batch_norm() that it is
/// moved into reads the inputs where they are instead. Throws ShapeError unless all agree but for the channels,
/// ValueError for none.
Tensor concat(std::span<const Tensor> inputs);

/// Parts x along the channels into tensors of `channels[i]` channels: the inverse of concat. Throws ShapeError unless
/// the channels are positive and add up to those of x.
std::vector<Tensor> split(const Tensor& x, std::span<const std::int64_t> channels);

}  // namespace palimpsest::ops
