#pragma once

#include <cstdint>
#include <optional>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

struct CrossEntropyOptions {
  /// Rows or pixels with this label count for nothing: it may be any number, in [0, K) or not.
  std::optional<std::int32_t> ignored = std::nullopt;
  /// Part of the expected probability that is spread evenly over all classes (Szegedy et al. 2016, section 7), in [0,
  /// 1]. count_correct() does not depend on it.
  double label_smoothing = 0;
};

/// Cross entropy of softmax(logits) over the K classes with the labels: its mean over the batch, or over all pixels of
/// the batch, that are not ignored (0 if all are). logits: (N, K) and labels: int32 (N), or logits: (N, K, H, W) and
/// labels: int32 (N, H, W); each label is in [0, K) or ignored. Returns a scalar. Throws ShapeError, DtypeError,
/// ValueError for a label or a smoothing out of range.
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, const CrossEntropyOptions& options = {});

/// The number of rows or pixels, without ignored ones, whose (first) largest logit is at the label. Not
/// differentiable. Shapes and errors as cross_entropy.
std::int64_t count_correct(const Tensor& logits, const Tensor& labels, const CrossEntropyOptions& options = {});

}  // namespace palimpsest::ops
