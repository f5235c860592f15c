#include <palimpsest/ops/mse_loss.hpp>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/mse_loss.hpp>

namespace palimpsest::ops {
namespace {

class MseLoss : public Op {
 public:
  std::string_view name() const override { return "mse_loss"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {.inputs = bits(0, 1)}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    check_shape(name(), 1, inputs[1].shape, inputs[0].shape);
    return {{{}, inputs[0].dtype}};
  }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    const bool in_parts = kernel_device(io.device()) == Device::Cuda;
    const auto parts = static_cast<std::size_t>(kernels::reduction_blocks(x.shape.count()));
    const Buffer partial = in_parts ? io.workspace(parts * sizeof(double)) : Buffer();
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), mse_forward<T>(x.shape.count(), x.as<T>(), io.input(1).as<T>(),
                                                 in_parts ? partial.as<double>() : nullptr, io.output().as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    for (std::size_t i = 0; i < 2; ++i) {
      if (!io.wants(i)) continue;
      const View own = io.input(i);
      const View other = io.input(1 - i);
      const View dloss = io.grad_output();
      const GradientTarget target = io.grad_input(i);
      run_kernels(name(), io.device(), own.dtype, [&]<class T>(T) {
        PALIMPSEST_RUN(io.device(), mse_backward<T>(own.shape.count(), own.as<T>(), other.as<T>(), dloss.as<T>(),
                                                    target.view.as<T>(), target.accumulate));
      });
    }
  }
};

}  // namespace

Tensor mse_loss(const Tensor& x, const Tensor& target) {
  return apply_single(std::make_unique<MseLoss>(), {x, target});
}

}  // namespace palimpsest::ops
