#include <palimpsest/ops/norm_conv.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/conv2d_geometry.hpp>
#include <palimpsest/ops/kernels/norm_conv.hpp>

namespace palimpsest::ops {
namespace {

/// Inputs: those of the normalisation (parts, gamma, beta), then the weights. Outputs: the convolution's, and the
/// normalised and rectified input, which is optional.
///
/// The gradient of a part is that of every normalisation that reads it (Ioffe & Szegedy 2015),
/// dx = sum over readers of gamma * rstd * dy' - offset - slope * (x - mean): the first terms are added as the readers
/// come, offset and slope are gathered, and applied when all have.
class NormConv : public Op {
 public:
  NormConv(std::unique_ptr<BatchNorm> norm, const kernels::Conv2dGeometry& geometry)
      : norm_(std::move(norm)), parts_(norm_->parts()), geometry_(geometry), pointwise_(is_pointwise(geometry)) {}

  std::string_view name() const override { return "batch_norm_relu_conv2d"; }
  Cost cost() const override { return Cost::Heavy; }
  Needs needs() const override {
    const std::size_t inputs = parts_ + 3;
    return {.inputs = inputs < 64 ? (std::uint64_t{1} << inputs) - 1 : all_bits, .optional_outputs = bits(1)};
  }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    const TensorSpec y = norm_->infer(inputs.first(parts_ + 2)).front();
    return {{{geometry_.n, geometry_.c_out, geometry_.h_out, geometry_.w_out}, y.dtype}, y};
  }

  Work forward_work(std::span<const View> inputs, std::span<const View> outputs) const override {
    const double normalised = static_cast<double>(outputs[1].shape.count());
    return {convolution_operations(inputs[parts_ + 2].shape, outputs[0].shape) + normalised,
            forward_bytes(inputs, outputs)};
  }
  Work backward_work(std::span<const View> inputs, std::span<const View> outputs,
                     const std::vector<bool>& wanted) const override {
    const double normalised = static_cast<double>(outputs[1].shape.count());
    return {2 * convolution_operations(inputs[parts_ + 2].shape, outputs[0].shape) + 2 * normalised,
            backward_bytes(inputs, outputs.first(1), wanted) +
                (outputs[1] ? static_cast<double>(outputs[1].bytes()) : 0.0)};
  }

  void forward(ForwardContext& io) override {
    if (io.device() == Device::Cpu) require_stack();
    const Dtype dtype = io.output(0).dtype;
    const Buffer scratch = io.workspace(forward_workspace(io.device(), dtype));
    run_kernels(name(), io.device(), dtype, [&](auto zero) {
      using T = decltype(zero);
      std::vector<kernels::NormPart<T>> parts(parts_);
      for (std::size_t i = 0; i < parts_; ++i) {
        parts[i].x = io.input(i).as<T>();
        parts[i].channels = io.input(i).shape.c();
      }
      const auto n = norm_->normalization<T>(io.input(parts_), io.input(parts_ + 1));
      const T* const w = io.input(parts_ + 2).as<T>();
      T* const z = io.output(0).as<T>();
      T* const y = io.output(1).as<T>();
      if (pointwise_) {
        PALIMPSEST_RUN(io.device(), norm_conv_forward<T>(rows(), parts.data(), n, w, z, y, scratch.as<T>()));
      } else {
        PALIMPSEST_RUN(io.device(),
                       norm_conv2d_forward<T>(geometry_, rows().parts, parts.data(), n, w, z, y, scratch.as<T>()));
      }
    });
  }

  std::vector<View> state() const override { return norm_->state(); }

  void backward(BackwardContext& io) override {
    if (io.device() == Device::Cpu) require_stack();
    const View dz = io.grad_output(0);
    const View gamma = io.input(parts_);
    const View y = io.output(1);
    std::vector<GradientTarget> targets(parts_);
    std::vector<bool> gathered(parts_);
    for (std::size_t i = 0; i < parts_; ++i) {
      if (!io.wants(i)) continue;
      targets[i] = io.grad_input(i);
      const std::shared_ptr<ChannelStatistics>& statistics = norm_->statistics()[i];
      gathered[i] = static_cast<bool>(statistics->correction);
      if (gathered[i]) continue;
      statistics->correction = Buffer(io.device(), statistics->moments.bytes(), Tag::Gradient);
      io.on_complete(i, [statistics](const View& x, const View& gradient) { correct(*statistics, x, gradient); });
    }
    GradientTarget dw;
    if (io.wants(parts_ + 2)) dw = io.grad_input(parts_ + 2);
    const std::size_t bytes = static_cast<std::size_t>(geometry_.c_in) * size_of(dz.dtype);
    const Buffer sum_dy = io.workspace(bytes);
    const Buffer sum_dy_xhat = io.workspace(bytes);
    {
      const Buffer scratch = io.workspace(backward_workspace(io.device(), dz.dtype));
      run_kernels(name(), io.device(), dz.dtype, [&](auto zero) {
        using T = decltype(zero);
        std::vector<kernels::NormPart<T>> parts(parts_);
        for (std::size_t i = 0; i < parts_; ++i) {
          const View x = io.input(i);
          parts[i] = {.x = x.as<T>(),
                      .channels = x.shape.c(),
                      .gradient = targets[i].view.as<T>(),
                      .accumulate = targets[i].accumulate,
                      .correction = targets[i].view ? norm_->statistics()[i]->correction.template as<T>() : nullptr,
                      .gathered = gathered[i]};
        }
        const auto n = norm_->normalization<T>(gamma, io.input(parts_ + 1));
        const T* const w = io.input(parts_ + 2).as<T>();
        T* const to = dw.view.as<T>();
        if (pointwise_) {
          PALIMPSEST_RUN(io.device(),
                         norm_conv_backward<T>(rows(), parts.data(), n, w, y.as<T>(), dz.as<T>(), to, dw.accumulate,
                                               sum_dy.as<T>(), sum_dy_xhat.as<T>(), scratch.as<T>()));
        } else {
          PALIMPSEST_RUN(io.device(),
                         norm_conv2d_backward<T>(geometry_, rows().parts, parts.data(), n, w, y.as<T>(), dz.as<T>(), to,
                                                 dw.accumulate, sum_dy.as<T>(), sum_dy_xhat.as<T>(), scratch.as<T>()));
        }
      });
    }
    BatchNorm::give(io, parts_, sum_dy_xhat);
    BatchNorm::give(io, parts_ + 1, sum_dy);
  }

 private:
  kernels::NormConvGeometry rows() const {
    return {.rows = geometry_.n * geometry_.h_in * geometry_.w_in,
            .channels = geometry_.c_in,
            .outputs = geometry_.c_out,
            .parts = static_cast<std::int64_t>(parts_),
            .products = geometry_.products};
  }

  std::size_t forward_workspace(Device device, Dtype dtype) const {
    return pointwise_ ? kernels::norm_conv_forward_workspace(device, rows(), size_of(dtype))
                      : kernels::norm_conv2d_forward_workspace(device, geometry_, size_of(dtype));
  }

  std::size_t backward_workspace(Device device, Dtype dtype) const {
    return pointwise_ ? kernels::norm_conv_backward_workspace(device, rows(), size_of(dtype))
                      : kernels::norm_conv2d_backward_workspace(device, geometry_, size_of(dtype));
  }

  /// Applies what all layers that read a part have gathered.
  static void correct(ChannelStatistics& statistics, const View& x, const View& gradient) {
    run_kernels("batch_norm_relu_conv2d", x.device, x.dtype, [&](auto zero) {
      using T = decltype(zero);
      PALIMPSEST_RUN(x.device,
                     norm_conv_correct<T>(x.shape.pixels(), x.shape.c(), x.as<T>(), statistics.moments.template as<T>(),
                                          statistics.correction.template as<T>(), gradient.as<T>()));
    });
    statistics.correction = {};
  }

  std::unique_ptr<BatchNorm> norm_;
  std::size_t parts_;
  kernels::Conv2dGeometry geometry_;
  bool pointwise_;
};

}  // namespace

Tensor norm_conv(std::unique_ptr<BatchNorm> norm, std::vector<Tensor> inputs, const Tensor& weight,
                 const Conv2dOptions& spec, const Shape& output) {
  const Shape& x = inputs[0].shape();
  const std::int64_t channels = inputs[norm->parts()].shape().count();
  const auto geometry = geometry_of(x.with_channels(channels), weight.shape(), output, spec);
  inputs.push_back(weight);
  return apply_single(std::make_unique<NormConv>(std::move(norm), geometry), std::move(inputs));
}

}  // namespace palimpsest::ops
