#include <palimpsest/ops/bias.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/bias.hpp>

namespace palimpsest::ops {
namespace {

class AddBias : public Op {
 public:
  std::string_view name() const override { return "add_bias"; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return 0; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    const Shape& x = inputs[0].shape;
    if (x.rank() != 4 && x.rank() != 2) check_rank(name(), 0, x, 4, "(N, C, H, W) or (N, C)");
    check_shape(name(), 1, inputs[1].shape, {x.c()});
    return {inputs[0]};
  }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    const View& y = io.output();
    if (x.data != y.data) copy_bytes(y.data, io.device(), x.data, io.device(), count_bytes(x));
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), add_bias<T>(x.shape.pixels(), x.shape.c(), io.input(1).as<T>(), y.as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    const View dy = io.grad_output();
    if (io.wants(1)) {
      const GradientTarget db = io.grad_input(1);
      const std::int64_t rows = dy.shape.pixels();
      const std::int64_t channels = dy.shape.c();
      const Buffer scratch = io.workspace(kernels::channel_sum_workspace(io.device(), rows, channels));
      run_kernels(name(), io.device(), dy.dtype, [&]<class T>(T) {
        PALIMPSEST_RUN(io.device(), channel_sum<T>(rows, channels, dy.as<T>(), db.view.as<T>(), db.accumulate,
                                                   scratch.as<double>()));
      });
    }
    if (io.wants(0)) io.pass_through(0);
  }

 private:
  static std::size_t count_bytes(const View& x) { return static_cast<std::size_t>(x.shape.count()) * size_of(x.dtype); }
};

}  // namespace

Tensor add_bias(Tensor x, const Tensor& bias) {
  return apply_single(std::make_unique<AddBias>(), inputs_of(std::move(x), bias));
}

}  // namespace palimpsest::ops
