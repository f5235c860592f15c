#pragma once

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// Mean over the batch of the cross entropy of softmax(logits) with the labels. logits: (N, K); labels: int32 (N), each
/// in [0, K). Returns a scalar. Throws ShapeError, DtypeError, ValueError for a label out of range.
Tensor cross_entropy(const Tensor& logits, const Tensor& labels);

/// How many rows of `logits` have their (first) largest element at the label. Not differentiable. Throws as
/// cross_entropy.
std::int64_t count_correct(const Tensor& logits, const Tensor& labels);

}  // namespace palimpsest::ops
