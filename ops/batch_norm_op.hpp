#pragma once

// The op behind batch_norm(), for the ops that take its work over before it runs.

#include <memory>
#include <vector>

#include <palimpsest/autograd/op.hpp>
#include <palimpsest/core/allocator.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>

namespace palimpsest::ops {

/// The statistics of a tensor's channels, left with it for all normalisations that read it (Pleiss et al. 2017 share
/// storage; this shares the work: a channel's statistics are the tensor's, not those of the layer that reads it).
struct ChannelStatistics : ValueCache {
  Buffer moments;  ///< mean, then biased variance, of each channel

  /// Offset, then slope, of each channel; empty until something has gathered. Layers add gamma * rstd * dy' to the
  /// tensor's gradient; the other two terms of a normalisation's gradient, which are linear in x, gather here and are
  /// applied once.
  Buffer correction;
};

/// Inputs: `parts` tensors, joined along their channels, then gamma and beta. Throws as batch_norm() does.
class BatchNorm : public Op {
 public:
  BatchNorm(const RunningStatistics& running, const BatchNormOptions& spec, std::size_t parts = 1)
      : running_(running), spec_(spec), parts_(parts) {}

  std::string_view name() const override { return spec_.relu ? "batch_norm_relu" : "batch_norm"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override;
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override;
  /// Fixes the mean and inverse deviation that every forward and the gradient will use, and lets the running statistics
  /// take part of them.
  void begin(ForwardContext& io) override;
  void forward(ForwardContext& io) override;
  void backward(BackwardContext& io) override;
  std::vector<View> state() const override {
    if (!spec_.training) return {};
    return {running_.mean.value().view(), running_.variance.value().view()};
  }

  const BatchNormOptions& spec() const { return spec_; }
  std::size_t parts() const { return parts_; }
  /// The statistics of each part. Only in training, after begin().
  const std::vector<std::shared_ptr<ChannelStatistics>>& statistics() const { return statistics_; }

  template <class T>
  kernels::Normalization<T> normalization(const View& gamma, const View& beta) const {
    const T* const mean = frozen_.as<T>();
    return {mean, mean + channels_, gamma.as<T>(), beta.as<T>(), spec_.relu};
  }

  /// The gradient of input i, gamma or beta, which is in `sum` anyway.
  static void give(BackwardContext& io, std::size_t i, const Buffer& sum);

 private:
  std::shared_ptr<ChannelStatistics> statistics_of(ForwardContext& io, std::size_t part);
  using Parts = std::vector<std::shared_ptr<ChannelStatistics>>;
  void update_running(const ForwardContext& io, std::int64_t rows);
  void blend(const ForwardContext& io, const Tensor& running, std::int64_t row, double factor,
             const std::shared_ptr<const Parts>& parts) const;

  RunningStatistics running_;
  BatchNormOptions spec_;
  std::size_t parts_;
  std::int64_t channels_ = 0;
  std::vector<std::shared_ptr<ChannelStatistics>> statistics_;
  Buffer frozen_;  // mean, then inverse deviation
};

}  // namespace palimpsest::ops
