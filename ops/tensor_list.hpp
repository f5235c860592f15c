#pragma once

// All of a model's gradients at once, outside of any recording: what nn/gradients.hpp is made of.

#include <span>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// The Euclidean norm of all elements of all tensors together, added up in double: the same bits for any number of
/// threads. Infinite or no number if one of them is, or, in float64 alone, if a square overflows; 0 for no tensors and
/// on a meta device. On CUDA the host waits for the device, once. Throws DtypeError, DeviceError unless all tensors are
/// of one floating type and on one device.
double l2_norm(std::span<const Tensor> tensors);

/// Multiplies all elements by `factor`, in place. The tensors must be leaves, all different. Throws like l2_norm(),
/// StateError for what is no leaf.
void scale_all(std::span<const Tensor> tensors, double factor);

/// Puts what is beyond [-limit, limit] at the nearer end, in place; NaN stays NaN. Throws like scale_all().
void clamp_all(std::span<const Tensor> tensors, double limit);

}  // namespace palimpsest::ops
