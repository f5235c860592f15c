#include <palimpsest/ops/relu.hpp>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/relu.hpp>

namespace palimpsest::ops {
namespace {

class Relu : public Op {
 public:
  std::string_view name() const override { return "relu"; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return 0; }
  Needs needs() const override { return {.outputs = bits(0)}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    return {inputs[0]};
  }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
      using T = decltype(zero);
      PALIMPSEST_RUN(io.device(), relu_forward<T>(x.shape.count(), x.as<T>(), io.output().as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    const View y = io.output();
    const View dy = io.grad_output();
    const GradientTarget dx = io.grad_input_over(0);
    run_kernels(name(), io.device(), y.dtype, [&](auto zero) {
      using T = decltype(zero);
      PALIMPSEST_RUN(io.device(),
                     relu_backward<T>(y.shape.count(), y.as<T>(), dy.as<T>(), dx.view.as<T>(), dx.accumulate));
    });
  }
};

}  // namespace

Tensor relu(Tensor x) { return apply_single(std::make_unique<Relu>(), inputs_of(std::move(x))); }

}  // namespace palimpsest::ops
