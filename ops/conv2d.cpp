#include <palimpsest/ops/conv2d.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/conv2d.hpp>
#include <palimpsest/ops/kernels/conv2d_geometry.hpp>
#include <palimpsest/ops/kernels/norm_conv.hpp>
#include <palimpsest/ops/norm_conv.hpp>

namespace palimpsest::ops {
namespace {

class Conv2d : public Op {
 public:
  Conv2d(const Conv2dOptions& spec, bool trains_weight) : spec_(spec), trains_weight_(trains_weight) {}

  std::string_view name() const override { return "conv2d"; }
  Cost cost() const override { return Cost::Heavy; }
  /// x is read for the weight's gradient alone, and nobody wants that of one that is frozen.
  Needs needs() const override { return {.inputs = trains_weight_ ? bits(0, 1) : bits(1)}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    const Shape& x = inputs[0].shape;
    const Shape& weight = inputs[1].shape;
    check_rank(name(), 1, weight, 4, "(K, C, R, S)");
    // The input is what callers get wrong, hardly ever the weight.
    if (x.rank() != 4 || x.c() != weight[1]) {
      throw ShapeError(concat_text("[conv2d] input 0 is ", x, ", expected (N, ", weight[1], ", H, W)"));
    }
    const Padding& pad = spec_.padding;
    if (spec_.stride < 1) throw ValueError(concat_text("[conv2d] stride is ", spec_.stride, ", expected at least 1"));
    if (pad.top < 0 || pad.left < 0 || pad.bottom < 0 || pad.right < 0)
      throw ValueError("[conv2d] padding is negative");
    if (spec_.products.column_bytes == 0) {
      throw ValueError("[conv2d] a bound of no bytes on columns, expected at least 1");
    }
    const std::int64_t height = x.h() + pad.top + pad.bottom - weight[2];
    const std::int64_t width = x.w() + pad.left + pad.right - weight[3];
    if (height < 0 || width < 0) {
      throw ShapeError(concat_text("[conv2d] weight ", weight, " is larger than the padded input ", x));
    }
    return {{{x.n(), weight[0], height / spec_.stride + 1, width / spec_.stride + 1}, inputs[0].dtype}};
  }

  Work forward_work(std::span<const View> inputs, std::span<const View> outputs) const override {
    return {convolution_operations(inputs[1].shape, outputs[0].shape), forward_bytes(inputs, outputs)};
  }
  Work backward_work(std::span<const View> inputs, std::span<const View> outputs,
                     const std::vector<bool>& wanted) const override {
    const int products = int{wanted[0]} + int{wanted[1]};
    return {products * convolution_operations(inputs[1].shape, outputs[0].shape),
            backward_bytes(inputs, outputs, wanted)};
  }

  void forward(ForwardContext& io) override {
    if (io.device() == Device::Cpu) require_stack();
    const View& x = io.input(0);
    const View& weight = io.input(1);
    const View& y = io.output();
    const auto geometry = geometry_of(x.shape, weight.shape, y.shape, spec_);
    const Buffer scratch = io.workspace(kernels::conv2d_forward_workspace(io.device(), geometry, size_of(x.dtype)));
    run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
      using T = decltype(zero);
      PALIMPSEST_RUN(io.device(), conv2d_forward<T>(geometry, x.as<T>(), weight.as<T>(), y.as<T>(), scratch.as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    if (io.device() == Device::Cpu) require_stack();
    const View weight = io.input(1);
    const View dy = io.grad_output();
    const auto geometry = geometry_of(io.input_shape(0), weight.shape, dy.shape, spec_);
    if (io.wants(1)) {
      const View x = io.input(0);
      const GradientTarget dw = io.grad_input(1);
      const Buffer scratch =
          io.workspace(kernels::conv2d_grad_weight_workspace(io.device(), geometry, size_of(x.dtype)));
      run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
        using T = decltype(zero);
        PALIMPSEST_RUN(io.device(), conv2d_grad_weight<T>(geometry, x.as<T>(), dy.as<T>(), dw.view.as<T>(),
                                                          dw.accumulate, scratch.as<T>()));
      });
    }
    if (!io.wants(0)) return;
    if (trains_weight_) io.done_with_input(0);
    const GradientTarget dx = io.grad_input(0);
    const Buffer scratch = io.workspace(kernels::conv2d_grad_input_workspace(io.device(), geometry, size_of(dy.dtype)));
    run_kernels(name(), io.device(), dy.dtype, [&](auto zero) {
      using T = decltype(zero);
      PALIMPSEST_RUN(io.device(), conv2d_grad_input<T>(geometry, dy.as<T>(), weight.as<T>(), dx.view.as<T>(),
                                                       dx.accumulate, scratch.as<T>()));
    });
  }

 private:
  Conv2dOptions spec_;
  bool trains_weight_;
};

}  // namespace

Tensor conv2d(Tensor x, const Tensor& weight, const Conv2dOptions& spec) {
  if (x && unrun_op<BatchNorm>(x) != nullptr) {
    const TensorSpec y = check_inputs(Conv2d(spec, true), std::vector<Tensor>{x, weight})[0];
    const auto geometry = geometry_of(x.shape(), weight.shape(), y.shape, spec);
    const bool fits = is_pointwise(geometry) || kernels::norm_conv2d_fits(geometry, size_of(y.dtype));
    const bool usable = weight.value().leaf() || weight.value().producer() != nullptr;
    if (fits && usable) {
      if (std::optional<Unrun<BatchNorm>> norm = take_unrun<BatchNorm>(x)) {
        return norm_conv(std::move(norm->op), std::move(norm->inputs), weight, spec, y.shape);
      }
    }
  }
  const bool trains_weight = weight && weight.requires_grad_on();
  return apply_single(std::make_unique<Conv2d>(spec, trains_weight), inputs_of(std::move(x), weight));
}

}  // namespace palimpsest::ops
