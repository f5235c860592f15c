#include <palimpsest/ops/batch_norm.hpp>

#include <algorithm>
#include <memory>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/elementwise.hpp>
#include <palimpsest/ops/batch_norm_op.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/concat_op.hpp>
#include <palimpsest/ops/join.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>

namespace palimpsest::ops {
namespace {

std::size_t bytes_of(std::int64_t elements, Dtype dtype) { return static_cast<std::size_t>(elements) * size_of(dtype); }

bool all_different(std::vector<ValuePtr> values) {
  std::sort(values.begin(), values.end());
  return std::adjacent_find(values.begin(), values.end()) == values.end();
}

/// Memory for several tensors of one shape but for the channels, joined along them.
View joined_view(const Buffer& memory, const View& first, std::int64_t channels) {
  return {memory.data(), first.shape.with_channels(channels), first.dtype, first.device};
}

/// The same as BatchNorm::blend(), from what is left with the parts of the normalised tensor.
void blend_parts(const Tensor& running, const std::vector<std::shared_ptr<ChannelStatistics>>& statistics,
                 std::int64_t row, double momentum, double factor) {
  const View view = running.state_view();
  run_kernels("batch_norm", view.device, view.dtype, [&]<class T>(T) {
    T* at = view.as<T>();
    for (const auto& part : statistics) {
      const auto channels = static_cast<std::int64_t>(part->moments.bytes() / (2 * sizeof(T)));
      const T* const moments = part->moments.template as<T>() + row * channels;
      PALIMPSEST_RUN(view.device, batch_norm_update_running<T>(channels, momentum, factor, moments, at));
      at += channels;
    }
  });
}

}  // namespace

Needs BatchNorm::needs() const {
  const std::size_t inputs = parts_ + 2;
  return {.inputs = inputs < 64 ? (std::uint64_t{1} << inputs) - 1 : all_bits};
}

std::vector<TensorSpec> BatchNorm::infer(std::span<const TensorSpec> inputs) const {
  // Messages number gamma and beta as callers of batch_norm() do, whatever x is made of.
  check_same_float(name(), std::vector<TensorSpec>{inputs[0], inputs[parts_], inputs[parts_ + 1]});
  const Shape& first = inputs[0].shape;
  if (first.rank() != 4 && first.rank() != 2) check_rank(name(), 0, first, 4, "(N, C, H, W) or (N, C)");
  std::int64_t channels = 0;
  for (std::size_t i = 0; i < parts_; ++i) {
    check_shape(name(), i, inputs[i].shape, first.with_channels(inputs[i].shape.c()));
    channels += inputs[i].shape.c();
  }
  for (const std::size_t i : {1, 2}) check_shape(name(), i, inputs[parts_ + i - 1].shape, {channels});
  for (const Tensor* statistic : {&running_.mean, &running_.variance}) {
    if (statistic->shape() != Shape{channels}) {
      throw ShapeError(
          concat_text("[", name(), "] running statistics are ", statistic->shape(), ", expected ", Shape{channels}));
    }
    if (statistic->dtype() != inputs[0].dtype) {
      throw DtypeError(concat_text("[", name(), "] running statistics are ", statistic->dtype(), ", expected ",
                                   inputs[0].dtype, " like input 0"));
    }
  }
  if (spec_.training && first.pixels() == 1) {
    throw ShapeError(
        concat_text("[", name(), "] input 0 is ", first, ", expected more than one value per channel in training"));
  }
  return {{first.with_channels(channels), inputs[0].dtype}};
}

std::shared_ptr<ChannelStatistics> BatchNorm::statistics_of(ForwardContext& io, std::size_t part) {
  std::shared_ptr<ValueCache>* const cache = io.cache(part);
  if (cache != nullptr) {
    if (auto known = std::dynamic_pointer_cast<ChannelStatistics>(*cache)) return known;
  }
  const View& x = io.input(part);
  auto statistics = std::make_shared<ChannelStatistics>();
  statistics->moments = Buffer(io.device(), bytes_of(2 * x.shape.c(), x.dtype), Tag::Activation);
  const Buffer scratch = io.workspace(kernels::batch_norm_workspace(io.device(), x.shape.pixels(), x.shape.c()));
  run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* const mean = statistics->moments.template as<T>();
    PALIMPSEST_RUN(io.device(), batch_norm_statistics<T>(x.shape.pixels(), x.shape.c(), x.as<T>(), mean,
                                                         mean + x.shape.c(), scratch.as<double>()));
  });
  const double examined = static_cast<double>(x.bytes());
  io.add_work({examined / 4, examined});
  if (cache != nullptr) *cache = statistics;
  return statistics;
}

void BatchNorm::begin(ForwardContext& io) {
  const View& x = io.input(0);
  channels_ = io.input(parts_).shape.count();
  const std::size_t bytes = bytes_of(channels_, x.dtype);
  frozen_ = Buffer(io.device(), 2 * bytes, Tag::Activation);
  std::byte* const mean = frozen_.as<std::byte>();
  if (!spec_.training) {
    copy_bytes(mean, io.device(), running_.mean.view().data, io.device(), bytes);
    copy_bytes(mean + bytes, io.device(), running_.variance.view().data, io.device(), bytes);
  } else {
    std::vector<View> moments;
    for (std::size_t i = 0; i < parts_; ++i) {
      statistics_.push_back(statistics_of(io, i));
      moments.push_back({statistics_.back()->moments.data(), {2, io.input(i).shape.c()}, x.dtype, io.device()});
    }
    gather(name(), moments, {mean, {2, channels_}, x.dtype, io.device()});
    update_running(io, x.shape.pixels());
  }
  run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
    using T = decltype(zero);
    // The second half holds the variance so far.
    PALIMPSEST_RUN(io.device(), batch_norm_rstd<T>(channels_, spec_.epsilon, frozen_.as<T>() + channels_));
  });
}

void BatchNorm::update_running(const ForwardContext& io, std::int64_t rows) {
  const double correction =
      spec_.unbiased_running_variance ? static_cast<double>(rows) / static_cast<double>(rows - 1) : 1.0;
  const auto parts = std::make_shared<const Parts>(statistics_);
  blend(io, running_.mean, 0, 1.0, parts);
  blend(io, running_.variance, 1, correction, parts);
}

/// Lets a running statistic take part of the batch's, which is row `row` of frozen_, times `factor`.
void BatchNorm::blend(const ForwardContext& io, const Tensor& running, std::int64_t row, double factor,
                      const std::shared_ptr<const Parts>& parts) const {
  const View view = running.state_view();
  auto before = std::make_shared<Buffer>(io.device(), bytes_of(channels_, view.dtype), Tag::Activation);
  copy_bytes(before->data(), io.device(), view.data, io.device(), before->bytes());
  // A value that the user has written since then stays, whatever fails.
  const auto is_ours = [running, assignments = running.value().assignments()] {
    return running.value().assignments() == assignments;
  };
  io.on_failure(
      [running, before, is_ours] {
        if (!is_ours()) return;
        copy_bytes(running.state_view().data, running.device(), before->data(), running.device(), before->bytes());
      },
      [running, before, is_ours, row, factor, momentum = spec_.momentum, parts] {
        if (!is_ours()) return;
        copy_bytes(before->data(), running.device(), running.view().data, running.device(), before->bytes());
        blend_parts(running, *parts, row, momentum, factor);
      });
  run_kernels(name(), io.device(), view.dtype, [&](auto zero) {
    using T = decltype(zero);
    PALIMPSEST_RUN(io.device(), batch_norm_update_running<T>(channels_, spec_.momentum, factor,
                                                             frozen_.as<T>() + row * channels_, view.as<T>()));
  });
}

void BatchNorm::forward(ForwardContext& io) {
  const View& y = io.output();
  // Several parts are joined in y and normalised there.
  if (parts_ > 1) gather(name(), io.inputs().first(parts_), y);
  const View& x = parts_ > 1 ? y : io.input(0);
  run_kernels(name(), io.device(), y.dtype, [&](auto zero) {
    using T = decltype(zero);
    PALIMPSEST_RUN(io.device(),
                   batch_norm_forward<T>(y.shape.pixels(), channels_, x.as<T>(),
                                         normalization<T>(io.input(parts_), io.input(parts_ + 1)), y.as<T>()));
  });
}

void BatchNorm::backward(BackwardContext& io) {
  const View dy = io.grad_output();
  const std::int64_t rows = dy.shape.pixels();
  const View gamma = io.input(parts_);
  const View beta = io.input(parts_ + 1);
  View x = io.input(0);
  Buffer joined;
  if (parts_ > 1) {
    std::vector<View> parts;
    for (std::size_t i = 0; i < parts_; ++i) parts.push_back(io.input(i));
    joined = io.workspace(bytes_of(rows * channels_, dy.dtype));
    x = joined_view(joined, x, channels_);
    gather(name(), parts, x);
  }
  const std::size_t bytes = bytes_of(channels_, dy.dtype);
  const Buffer sum_dy = io.workspace(bytes);
  const Buffer sum_dy_xhat = io.workspace(bytes);
  // With running statistics the sums are gamma's and beta's gradients and nothing else.
  if (spec_.training || io.wants(parts_) || io.wants(parts_ + 1)) {
    const Buffer scratch = io.workspace(kernels::batch_norm_workspace(io.device(), x.shape.pixels(), x.shape.c()));
    run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
      using T = decltype(zero);
      PALIMPSEST_RUN(io.device(), batch_norm_reduce_gradient<T>(rows, channels_, x.as<T>(), dy.as<T>(),
                                                                normalization<T>(gamma, beta), sum_dy.as<T>(),
                                                                sum_dy_xhat.as<T>(), scratch.as<double>()));
    });
  }
  give(io, parts_, sum_dy_xhat);
  give(io, parts_ + 1, sum_dy);
  bool wanted = false;
  for (std::size_t i = 0; i < parts_; ++i) wanted = wanted || io.wants(i);
  if (!wanted) return;
  // The joined gradient takes the joined input's place once that has been read: both are the same walk over memory.
  GradientTarget dx{x, false};
  if (parts_ == 1) dx = io.grad_input_over(0);
  run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto n = normalization<T>(gamma, beta);
    if (spec_.training) {
      PALIMPSEST_RUN(io.device(),
                     batch_norm_input_gradient<T>(rows, channels_, x.as<T>(), dy.as<T>(), n, sum_dy.as<T>(),
                                                  sum_dy_xhat.as<T>(), dx.view.as<T>(), dx.accumulate));
    } else {
      PALIMPSEST_RUN(io.device(), batch_norm_affine_input_gradient<T>(rows, channels_, x.as<T>(), dy.as<T>(), n,
                                                                      dx.view.as<T>(), dx.accumulate));
    }
  });
  if (parts_ == 1) return;
  std::vector<GradientTarget> targets;
  for (std::size_t i = 0; i < parts_; ++i) {
    GradientTarget unwanted;
    unwanted.view.shape = io.input_shape(i);
    targets.push_back(io.wants(i) ? io.grad_input(i) : unwanted);
  }
  scatter(name(), dx.view, targets);
}

void BatchNorm::give(BackwardContext& io, std::size_t i, const Buffer& sum) {
  if (!io.wants(i)) return;
  const GradientTarget target = io.grad_input(i);
  if (target.accumulate) {
    accumulate(target.view.data, sum.data(), target.view.shape.count(), target.view.dtype, io.device());
  } else {
    copy_bytes(target.view.data, io.device(), sum.data(), io.device(), sum.bytes());
  }
}

Tensor batch_norm(Tensor x, const Tensor& gamma, const Tensor& beta, const RunningStatistics& running,
                  const BatchNormOptions& spec) {
  for (const Tensor* statistic : {&running.mean, &running.variance}) {
    if (!x || statistic->device() == x.device()) continue;
    throw DeviceError(concat_text("[batch_norm] running statistics are on ", statistic->device(), ", expected ",
                                  x.device(), " like input 0"));
  }
  check_inputs(BatchNorm(running, spec), std::vector<Tensor>{x, gamma, beta});
  // The normalisation of a concat reads its inputs where they are. Its kernels write the gradients of all of them at
  // once, so they must be different tensors.
  std::vector<Tensor> inputs;
  std::shared_ptr<Tape> tape;
  if (spec.training && unrun_op<Concat>(x) != nullptr && all_different(unrun_inputs(x))) {
    if (std::optional<Unrun<Concat>> joined = take_unrun<Concat>(x)) {
      inputs = std::move(joined->inputs);
      tape = std::move(joined->tape);
    }
  }
  if (inputs.empty()) inputs.push_back(std::move(x));
  auto op = std::make_unique<BatchNorm>(running, spec, inputs.size());
  inputs.push_back(gamma);
  inputs.push_back(beta);
  const bool may_be_taken_over = spec.training && spec.relu;
  return may_be_taken_over ? apply_when_read(std::move(op), std::move(inputs))
                           : apply_single(std::move(op), std::move(inputs));
}

}  // namespace palimpsest::ops
