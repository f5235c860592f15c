#include "ops/batch_norm.hpp"

#include <memory>

#include "core/cuda_runtime.hpp"
#include "core/elementwise.hpp"
#include "ops/batch_norm_kernels.hpp"
#include "ops/check.hpp"

namespace palimpsest::ops {
namespace {

class BatchNorm : public Op {
 public:
  BatchNorm(const RunningStatistics& running, const BatchNormSpec& spec) : running_(running), spec_(spec) {}

  std::string_view name() const override { return spec_.relu ? "batch_norm_relu" : "batch_norm"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {.inputs = bits(0, 1, 2)}; }

  std::vector<Spec> infer(std::span<const Spec> inputs) const override {
    check_same_float(name(), inputs);
    const Shape& x = inputs[0].shape;
    if (x.rank() != 4 && x.rank() != 2) check_rank(name(), 0, x, 4, "(N, C, H, W) or (N, C)");
    check_shape(name(), 1, inputs[1].shape, {x.c()});
    check_shape(name(), 2, inputs[2].shape, {x.c()});
    for (const Tensor* statistic : {&running_.mean, &running_.variance}) {
      if (statistic->shape() != Shape{x.c()}) {
        throw ShapeError(
            concat_text("[", name(), "] running statistics are ", statistic->shape(), ", expected ", Shape{x.c()}));
      }
      if (statistic->dtype() != inputs[0].dtype) {
        throw DtypeError(concat_text("[", name(), "] running statistics are ", statistic->dtype(), ", expected ",
                                     inputs[0].dtype, " like input 0"));
      }
    }
    if (spec_.training && x.pixels() == 1) {
      throw ShapeError(
          concat_text("[", name(), "] input 0 is ", x, ", expected more than one value per channel in training"));
    }
    return {inputs[0]};
  }

  void forward(Forward& io) override {
    const View& x = io.input(0);
    const std::int64_t channels = x.shape.c();
    if (io.phase() == Phase::First) freeze(io);
    run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
      using T = decltype(zero);
      PALIMPSEST_RUN(io.device(),
                     batch_norm_forward<T>(x.shape.pixels(), channels, x.as<T>(),
                                           normalization<T>(io.input(1), io.input(2)), io.output().as<T>()));
    });
  }

  void backward(Backward& io) override {
    const View x = io.input(0);
    const View dy = io.grad_output();
    const std::int64_t rows = x.shape.pixels();
    const std::int64_t channels = x.shape.c();
    const std::size_t bytes = static_cast<std::size_t>(channels) * size_of(x.dtype);
    const Buffer sum_dy = io.workspace(bytes);
    const Buffer sum_dy_xhat = io.workspace(bytes);
    {
      const Buffer scratch = io.workspace(workspace_bytes(io.device(), x.shape));
      run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
        using T = decltype(zero);
        PALIMPSEST_RUN(io.device(),
                       batch_norm_reduce_gradient<T>(rows, channels, x.as<T>(), dy.as<T>(),
                                                     normalization<T>(io.input(1), io.input(2)), sum_dy.as<T>(),
                                                     sum_dy_xhat.as<T>(), scratch.as<double>()));
      });
    }
    give(io, 1, sum_dy_xhat);
    give(io, 2, sum_dy);
    if (!io.wants(0)) return;
    const GradientTarget dx = io.grad_input_over(0);
    run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto n = normalization<T>(io.input(1), io.input(2));
      if (spec_.training) {
        PALIMPSEST_RUN(io.device(),
                       batch_norm_input_gradient<T>(rows, channels, x.as<T>(), dy.as<T>(), n, sum_dy.as<T>(),
                                                    sum_dy_xhat.as<T>(), dx.view.as<T>(), dx.accumulate));
      } else {
        PALIMPSEST_RUN(io.device(), batch_norm_affine_input_gradient<T>(rows, channels, x.as<T>(), dy.as<T>(), n,
                                                                        dx.view.as<T>(), dx.accumulate));
      }
    });
  }

 private:
  static std::size_t workspace_bytes(Device device, const Shape& x) {
    const bool on_cuda = kernel_device(device) == Device::Cuda;
    const std::int64_t doubles = on_cuda ? kernels::gpu::batch_norm_workspace(x.pixels(), x.c())
                                         : kernels::batch_norm_workspace(x.pixels(), x.c());
    return static_cast<std::size_t>(doubles) * sizeof(double);
  }

  template <class T>
  kernels::Normalization<T> normalization(const View& gamma, const View& beta) const {
    return {mean_.as<T>(), rstd_.as<T>(), gamma.as<T>(), beta.as<T>(), spec_.relu};
  }

  /// The first forward: fixes the mean and inverse deviation that every replay and the gradient will use, and lets the
  /// running statistics take part of them.
  void freeze(const Forward& io) {
    const View& x = io.input(0);
    const std::int64_t channels = x.shape.c();
    const std::size_t bytes = static_cast<std::size_t>(channels) * size_of(x.dtype);
    mean_ = Buffer(io.device(), bytes, Tag::Activation);
    rstd_ = Buffer(io.device(), bytes, Tag::Activation);
    if (!spec_.training) {
      copy_bytes(mean_.data(), io.device(), running_.mean.view().data, io.device(), bytes);
      copy_bytes(rstd_.data(), io.device(), running_.variance.view().data, io.device(), bytes);
    } else {
      const Buffer scratch = io.workspace(workspace_bytes(io.device(), x.shape));
      run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
        using T = decltype(zero);
        PALIMPSEST_RUN(io.device(), batch_norm_statistics<T>(x.shape.pixels(), channels, x.as<T>(), mean_.as<T>(),
                                                             rstd_.as<T>(), scratch.as<double>()));
      });
      update_running(io, x.shape.pixels());
    }
    run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
      using T = decltype(zero);
      // rstd_ holds the variance so far.
      PALIMPSEST_RUN(io.device(), batch_norm_rstd<T>(channels, spec_.epsilon, rstd_.as<T>()));
    });
  }

  void update_running(const Forward& io, std::int64_t rows) {
    const double correction =
        spec_.unbiased_running_variance ? static_cast<double>(rows) / static_cast<double>(rows - 1) : 1.0;
    blend(io, running_.mean, mean_, 1.0);
    blend(io, running_.variance, rstd_, correction);
  }

  /// Lets a running statistic take part of a batch's, times `factor`.
  void blend(const Forward& io, const Tensor& running, const Buffer& batch, double factor) const {
    const View view = running.view();
    auto before = std::make_shared<Buffer>(io.device(), batch.bytes(), Tag::Activation);
    copy_bytes(before->data(), io.device(), view.data, io.device(), batch.bytes());
    io.on_failure([running, before] {
      copy_bytes(running.view().data, running.device(), before->data(), running.device(), before->bytes());
    });
    run_kernels(name(), io.device(), view.dtype, [&](auto zero) {
      using T = decltype(zero);
      PALIMPSEST_RUN(io.device(), batch_norm_update_running<T>(view.shape.count(), spec_.momentum, factor,
                                                               batch.as<T>(), view.as<T>()));
    });
    running.mark_changed();
  }

  /// The gradient of gamma or beta, which backward has in `sum` anyway.
  static void give(Backward& io, std::size_t i, const Buffer& sum) {
    if (!io.wants(i)) return;
    const GradientTarget target = io.grad_input(i);
    if (target.accumulate) {
      accumulate(target.view.data, sum.data(), target.view.shape.count(), target.view.dtype, io.device());
    } else {
      copy_bytes(target.view.data, io.device(), sum.data(), io.device(), sum.bytes());
    }
  }

  RunningStatistics running_;
  BatchNormSpec spec_;
  Buffer mean_;  // frozen by the first forward
  Buffer rstd_;
};

}  // namespace

Tensor batch_norm(Tensor x, const Tensor& gamma, const Tensor& beta, const RunningStatistics& running,
                  const BatchNormSpec& spec) {
  for (const Tensor* statistic : {&running.mean, &running.variance}) {
    if (!x || statistic->device() == x.device()) continue;
    throw DeviceError(concat_text("[batch_norm] running statistics are on ", statistic->device(), ", expected ",
                                  x.device(), " like input 0"));
  }
  return apply_single(std::make_unique<BatchNorm>(running, spec), inputs_of(std::move(x), gamma, beta));
}

}  // namespace palimpsest::ops
