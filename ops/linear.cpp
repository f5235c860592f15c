#include "ops/linear.hpp"

#include "ops/bias.hpp"
#include "ops/check.hpp"
#include "ops/gemm.hpp"

namespace palimpsest::ops {
namespace {

class MatrixProduct : public Op {
 public:
  std::string_view name() const override { return "linear"; }
  Cost cost() const override { return Cost::Heavy; }
  Needs needs() const override { return {.inputs = bits(0, 1)}; }

  std::vector<Spec> infer(std::span<const Spec> inputs) const override {
    check_same_float(name(), inputs);
    check_rank(name(), 0, inputs[0].shape, 2, "(N, I)");
    check_rank(name(), 1, inputs[1].shape, 2, "(O, I)");
    check_shape(name(), 1, inputs[1].shape, {inputs[1].shape[0], inputs[0].shape.c()});
    return {{{inputs[0].shape.n(), inputs[1].shape[0]}, inputs[0].dtype}};
  }

  void forward(Forward& io) override {
    const View& x = io.input(0);
    const View& weight = io.input(1);
    run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
      using T = decltype(zero);
      gemm<T>(x.shape[0], weight.shape[0], x.shape[1], {x.as<T>(), x.shape[1]}, {weight.as<T>(), x.shape[1], true},
              io.output().as<T>(), weight.shape[0], false);
    });
  }

  void backward(Backward& io) override {
    const View x = io.input(0);
    const View weight = io.input(1);
    const View dy = io.grad_output();
    if (io.wants(0)) {
      const GradientTarget dx = io.grad_input(0);
      run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
        using T = decltype(zero);
        gemm<T>(x.shape[0], x.shape[1], weight.shape[0], {dy.as<T>(), weight.shape[0]}, {weight.as<T>(), x.shape[1]},
                dx.view.as<T>(), x.shape[1], dx.accumulate);
      });
    }
    if (!io.wants(1)) return;
    const GradientTarget dw = io.grad_input(1);
    run_kernels(name(), io.device(), x.dtype, [&](auto zero) {
      using T = decltype(zero);
      gemm<T>(weight.shape[0], x.shape[1], x.shape[0], {dy.as<T>(), weight.shape[0], true}, {x.as<T>(), x.shape[1]},
              dw.view.as<T>(), x.shape[1], dw.accumulate);
    });
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return add_bias(apply_single(std::make_unique<MatrixProduct>(), {x, weight}), bias);
}

}  // namespace palimpsest::ops
