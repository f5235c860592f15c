#include <palimpsest/ops/activation.hpp>

#include <cmath>

#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/activation.hpp>

namespace palimpsest::ops {
namespace {

/// The op of a function object of ops/kernels/activation.hpp.
template <class Function>
class Activation : public Op {
 public:
  explicit Activation(Function function) : function_(function) {}

  std::string_view name() const override { return Function::name; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return reads == Reads::Input ? -1 : 0; }
  Needs needs() const override {
    return {.inputs = reads == Reads::Input ? bits(0) : 0, .outputs = reads == Reads::Output ? bits(0) : 0};
  }

  Work forward_work(std::span<const View> inputs, std::span<const View> outputs) const override {
    return scaled(Op::forward_work(inputs, outputs));
  }
  Work backward_work(std::span<const View> inputs, std::span<const View> outputs,
                     const std::vector<bool>& wanted) const override {
    return scaled(Op::backward_work(inputs, outputs, wanted));
  }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    if constexpr (requires { function_.slope; }) {
      if (!(function_.slope >= 0 && std::isfinite(function_.slope))) {
        throw ValueError(
            concat_text("[", name(), "] slope is ", function_.slope, ", expected a finite one, at least 0"));
      }
    }
    if constexpr (requires { function_.factor; }) {
      if (!std::isfinite(function_.factor)) {
        throw ValueError(concat_text("[", name(), "] factor is ", function_.factor, ", expected a finite one"));
      }
    }
    return {inputs[0]};
  }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), activate<Function, T>(function_, x.shape.count(), x.as<T>(), io.output().as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    const View dy = io.grad_output();
    const View kept = reads == Reads::Input ? io.input(0) : reads == Reads::Output ? io.output() : dy;
    const GradientTarget dx = io.grad_input_over(0);
    run_kernels(name(), io.device(), dy.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), activate_backward<Function, T>(function_, dy.shape.count(), kept.as<T>(), dy.as<T>(),
                                                                 dx.view.as<T>(), dx.accumulate));
    });
  }

 private:
  using Reads = kernels::Reads;
  static constexpr Reads reads = Function::reads;

  static Work scaled(Work work) {
    work.operations *= Function::operations;
    return work;
  }

  Function function_;
};

}  // namespace

#define DEFINE(Function, function, ...)                                                                            \
  Tensor function(Tensor x __VA_OPT__(, __VA_ARGS__ parameter)) {                                                  \
    return apply_single(std::make_unique<Activation<kernels::Function>>(kernels::Function{__VA_OPT__(parameter)}), \
                        inputs_of(std::move(x)));                                                                  \
  }
PALIMPSEST_ACTIVATIONS(DEFINE)
#undef DEFINE

}  // namespace palimpsest::ops
