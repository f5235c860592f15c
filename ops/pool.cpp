#include <palimpsest/ops/pool.hpp>

#include <algorithm>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/pool.hpp>

namespace palimpsest::ops {
namespace {

/// The common part of average and maximum pooling: the window and the shapes.
class Pool2d : public Op {
 public:
  Pool2d(std::int64_t kernel, std::int64_t stride, const Padding& padding)
      : kernel_(kernel), stride_(stride), padding_(padding) {}

  Cost cost() const override { return Cost::Cheap; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    const Shape& x = inputs[0].shape;
    check_rank(name(), 0, x, 4, "(N, C, H, W)");
    const auto [top, left, bottom, right] = padding_;
    if (kernel_ < 1 || stride_ < 1 || std::min({top, left, bottom, right}) < 0 ||
        2 * std::max({top, left, bottom, right}) > kernel_) {
      throw ValueError(concat_text("[", name(), "] kernel ", kernel_, ", stride ", stride_, ", padding ", top, ", ",
                                   left, ", ", bottom, ", ", right,
                                   ": expected positive ones and a padding of at most half the kernel"));
    }
    const std::int64_t height = x.h() + top + bottom - kernel_;
    const std::int64_t width = x.w() + left + right - kernel_;
    if (height < 0 || width < 0) {
      throw ShapeError(
          concat_text("[", name(), "] input 0 is ", x, ", expected at least ", kernel_, " x ", kernel_, " pixels"));
    }
    return {{{x.n(), x.c(), height / stride_ + 1, width / stride_ + 1}, inputs[0].dtype}};
  }

 protected:
  kernels::PoolShape pool_shape(const Shape& x, const Shape& y) const {
    return {x.n(), x.h(), x.w(), x.c(), kernel_, stride_, padding_.top, padding_.left, y.h(), y.w()};
  }

 private:
  std::int64_t kernel_;
  std::int64_t stride_;
  Padding padding_;
};

class AvgPool2d : public Pool2d {
 public:
  AvgPool2d(std::int64_t kernel, std::int64_t stride) : Pool2d(kernel, stride, {}) {}

  std::string_view name() const override { return "avg_pool2d"; }
  Needs needs() const override { return {}; }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    const View& y = io.output();
    const kernels::PoolShape windows = pool_shape(x.shape, y.shape);
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), sum_windows<T>(windows, share<T>(windows), x.as<T>(), y.as<T>(), false));
    });
  }

  void backward(BackwardContext& io) override {
    const View dy = io.grad_output();
    const GradientTarget dx = io.grad_input(0);
    const kernels::PoolShape windows = pool_shape(dx.view.shape, dy.shape);
    run_kernels(name(), io.device(), dy.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(),
                     spread_windows<T>(windows, share<T>(windows), dy.as<T>(), dx.view.as<T>(), dx.accumulate));
    });
  }

 private:
  template <class T>
  static T share(const kernels::PoolShape& windows) {
    return T{1} / static_cast<T>(windows.kernel * windows.kernel);
  }
};

class MaxPool2d : public Pool2d {
 public:
  using Pool2d::Pool2d;

  std::string_view name() const override { return "max_pool2d"; }
  Needs needs() const override { return {.inputs = bits(0)}; }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    const View& y = io.output();
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), max_pool2d_forward<T>(pool_shape(x.shape, y.shape), x.as<T>(), y.as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    const View x = io.input(0);
    const View dy = io.grad_output();
    const GradientTarget dx = io.grad_input(0);
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), max_pool2d_backward<T>(pool_shape(x.shape, dy.shape), x.as<T>(), dy.as<T>(),
                                                         dx.view.as<T>(), dx.accumulate));
    });
  }
};

/// Every pixel of the small image is a window of the large one.
class UpsampleNearest2d : public Op {
 public:
  explicit UpsampleNearest2d(std::int64_t factor) : factor_(factor) {}

  std::string_view name() const override { return "upsample_nearest2d"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    const Shape& x = inputs[0].shape;
    check_rank(name(), 0, x, 4, "(N, C, H, W)");
    if (factor_ < 1) throw ValueError(concat_text("[", name(), "] factor is ", factor_, ", expected at least 1"));
    return {{{x.n(), x.c(), x.h() * factor_, x.w() * factor_}, inputs[0].dtype}};
  }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), spread_windows<T>(windows(x.shape), T{1}, x.as<T>(), io.output().as<T>(), false));
    });
  }

  void backward(BackwardContext& io) override {
    const View dy = io.grad_output();
    const GradientTarget dx = io.grad_input(0);
    run_kernels(name(), io.device(), dy.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(),
                     sum_windows<T>(windows(dx.view.shape), T{1}, dy.as<T>(), dx.view.as<T>(), dx.accumulate));
    });
  }

 private:
  kernels::PoolShape windows(const Shape& x) const {
    return {x.n(), x.h() * factor_, x.w() * factor_, x.c(), factor_, factor_, 0, 0, x.h(), x.w()};
  }

  std::int64_t factor_;
};

class GlobalAvgPool : public Op {
 public:
  std::string_view name() const override { return "global_avg_pool"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    check_rank(name(), 0, inputs[0].shape, 4, "(N, C, H, W)");
    return {{{inputs[0].shape.n(), inputs[0].shape.c()}, inputs[0].dtype}};
  }

  void forward(ForwardContext& io) override {
    const View& x = io.input(0);
    run_kernels(name(), io.device(), x.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), global_avg_pool_forward<T>(x.shape.n(), x.shape.h() * x.shape.w(), x.shape.c(),
                                                             x.as<T>(), io.output().as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    const View dy = io.grad_output();
    const GradientTarget dx = io.grad_input(0);
    const Shape& x = dx.view.shape;
    run_kernels(name(), io.device(), dy.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), global_avg_pool_backward<T>(x.n(), x.h() * x.w(), x.c(), dy.as<T>(), dx.view.as<T>(),
                                                              dx.accumulate));
    });
  }
};

}  // namespace

Tensor avg_pool2d(const Tensor& x, std::int64_t kernel, std::int64_t stride) {
  return apply_single(std::make_unique<AvgPool2d>(kernel, stride), {x});
}

Tensor upsample_nearest2d(const Tensor& x, std::int64_t factor) {
  return apply_single(std::make_unique<UpsampleNearest2d>(factor), {x});
}

Tensor global_avg_pool(const Tensor& x) { return apply_single(std::make_unique<GlobalAvgPool>(), {x}); }

Tensor max_pool2d(const Tensor& x, std::int64_t kernel, std::int64_t stride, const Padding& padding) {
  return apply_single(std::make_unique<MaxPool2d>(kernel, stride, padding), {x});
}

}  // namespace palimpsest::ops
