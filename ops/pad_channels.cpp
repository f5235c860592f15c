#include <palimpsest/ops/pad_channels.hpp>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/pad_channels.hpp>

namespace palimpsest::ops {
namespace {

class PadChannels : public Op {
 public:
  PadChannels(std::int64_t before, std::int64_t after) : before_(before), after_(after) {}

  std::string_view name() const override { return "pad_channels"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    const Shape& x = inputs[0].shape;
    if (x.rank() != 4 && x.rank() != 2) check_rank(name(), 0, x, 4, "(N, C, H, W) or (N, C)");
    if (before_ < 0 || after_ < 0) {
      throw ValueError(concat_text("[pad_channels] ", before_, " and ", after_, " channels, expected none negative"));
    }
    return {{x.with_channels(before_ + x.c() + after_), inputs[0].dtype}};
  }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), pad_channels_forward<T>(x.shape.pixels(), x.shape.c(), before_, after_, x.as<T>(),
                                                          io.output().as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    const View dy = io.grad_output();
    const GradientTarget dx = io.grad_input(0);
    run_kernels(name(), io.device(), dy.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), pad_channels_backward<T>(dx.view.shape.pixels(), dx.view.shape.c(), before_, after_,
                                                           dy.as<T>(), dx.view.as<T>(), dx.accumulate));
    });
  }

 private:
  std::int64_t before_;
  std::int64_t after_;
};

}  // namespace

Tensor pad_channels(const Tensor& x, std::int64_t before, std::int64_t after) {
  return apply_single(std::make_unique<PadChannels>(before, after), {x});
}

}  // namespace palimpsest::ops
