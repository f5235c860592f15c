#include <palimpsest/ops/linear.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/kernel.hpp>
#include <palimpsest/ops/bias.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/gemm.hpp>

namespace palimpsest::ops {
namespace {

/// op(a) * op(b) on a device, see gemm.hpp.
template <class T>
void multiply(Device device, std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b,
              const GradientTarget& c, Precision precision, const Buffer& workspace) {
  if constexpr (compiled_for_cuda) {
    if (device == Device::Cuda) {
      return cuda::gemm<T>(m, n, k, a, b, c.view.as<T>(), n, c.accumulate, precision, workspace.data());
    }
  }
  gemm<T>(m, n, k, a, b, c.view.as<T>(), n, c.accumulate);
}

class MatrixProduct : public Op {
 public:
  MatrixProduct(Precision precision, bool trains_weight) : precision_(precision), trains_weight_(trains_weight) {}

  std::string_view name() const override { return "linear"; }
  Cost cost() const override { return Cost::Heavy; }
  /// x is read for the weight's gradient alone, and nobody wants that of one that is frozen.
  Needs needs() const override { return {.inputs = trains_weight_ ? bits(0, 1) : bits(1)}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    const Shape& x = inputs[0].shape;
    const Shape& weight = inputs[1].shape;
    check_rank(name(), 1, weight, 2, "(O, I)");
    if (x.rank() != 2 || x.c() != weight.c()) {
      throw ShapeError(concat_text("[linear] input 0 is ", x, ", expected (N, ", weight.c(), ")"));
    }
    return {{{x.n(), weight[0]}, inputs[0].dtype}};
  }

  Work forward_work(std::span<const View> inputs, std::span<const View> outputs) const override {
    return {product_operations(inputs), forward_bytes(inputs, outputs)};
  }
  Work backward_work(std::span<const View> inputs, std::span<const View> outputs,
                     const std::vector<bool>& wanted) const override {
    const int products = int{wanted[0]} + int{wanted[1]};
    return {products * product_operations(inputs), backward_bytes(inputs, outputs, wanted)};
  }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    const View& weight = io.input(1);
    const Buffer workspace = io.workspace(gemm_workspace(kernel_device(io.device())));
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      multiply<T>(io.device(), x.shape[0], weight.shape[0], x.shape[1], {x.as<T>(), x.shape[1]},
                  {weight.as<T>(), x.shape[1], true}, {io.output(), false}, precision_, workspace);
    });
  }

  void backward(BackwardContext& io) override {
    const View weight = io.input(1);
    const View dy = io.grad_output();
    const Buffer workspace = io.workspace(gemm_workspace(kernel_device(io.device())));
    if (io.wants(1)) {
      const View x = io.input(0);
      const GradientTarget dw = io.grad_input(1);
      run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
        multiply<T>(io.device(), weight.shape[0], x.shape[1], x.shape[0], {dy.as<T>(), weight.shape[0], true},
                    {x.as<T>(), x.shape[1]}, dw, precision_, workspace);
      });
    }
    if (!io.wants(0)) return;
    if (trains_weight_) io.done_with_input(0);
    const GradientTarget dx = io.grad_input(0);
    run_kernels(name(), io.device(), dy.dtype, [&]<class T>(T) {
      multiply<T>(io.device(), dy.shape[0], dx.view.shape[1], weight.shape[0], {dy.as<T>(), weight.shape[0]},
                  {weight.as<T>(), dx.view.shape[1]}, dx, precision_, workspace);
    });
  }

 private:
  static double product_operations(std::span<const View> inputs) {
    return 2.0 * static_cast<double>(inputs[0].shape.count()) * static_cast<double>(inputs[1].shape[0]);
  }

  Precision precision_;
  bool trains_weight_;
};

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const ProductOptions& products) {
  const bool trains_weight = weight && weight.requires_grad_on();
  return add_bias(apply_single(std::make_unique<MatrixProduct>(products.precision, trains_weight), {x, weight}), bias);
}

}  // namespace palimpsest::ops
