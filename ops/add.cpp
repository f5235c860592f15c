#include <palimpsest/ops/add.hpp>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/add.hpp>

namespace palimpsest::ops {
namespace {

class Add : public Op {
 public:
  std::string_view name() const override { return "add"; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return 1; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    check_shape(name(), 1, inputs[1].shape, inputs[0].shape);
    return {inputs[0]};
  }

  void forward(ForwardContext& io) override {
    const View& y = io.output();
    run_kernels(name(), io.device(), y.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), add<T>(y.shape.count(), io.input(0).as<T>(), io.input(1).as<T>(), y.as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    for (std::size_t i = 0; i < 2; ++i) {
      if (io.wants(i)) io.pass_through(i);
    }
  }
};

}  // namespace

Tensor add(const Tensor& a, Tensor b) { return apply_single(std::make_unique<Add>(), inputs_of(a, std::move(b))); }

}  // namespace palimpsest::ops
