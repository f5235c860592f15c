#include <palimpsest/ops/couple.hpp>

#include <cmath>
#include <memory>

#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/couple_op.hpp>
#include <palimpsest/ops/kernels/couple.hpp>

namespace palimpsest::ops {
namespace {

void check_grid(std::string_view op, int grid, Dtype dtype) {
  if (grid >= 0 && grid < mantissa_bits(dtype)) return;
  throw ValueError(
      concat_text("[", op, "] grid is ", grid, ", expected 0 to ", mantissa_bits(dtype) - 1, " for ", dtype));
}

/// Sums of multiples of 2^-grid are exact below this magnitude.
template <class T>
T range_limit(int grid) {
  return std::ldexp(T{1}, mantissa_bits(dtype_of<T>) - grid);
}

class Couple : public Op {
 public:
  explicit Couple(std::optional<Grid> grid) : grid_(std::move(grid)) {}

  std::string_view name() const override { return "couple"; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return 1; }
  int solvable_input() const override { return 0; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    check_shape(name(), 1, inputs[1].shape, inputs[0].shape);
    if (!grid_) return {inputs[0]};
    check_grid(name(), grid_->bits, inputs[0].dtype);
    if (grid_->largest) check_magnitudes(grid_->largest, inputs[0].dtype);
    return {inputs[0]};
  }

  void begin(ForwardContext& io) override {
    if (!grid_ || !grid_->largest || !io.recorded()) return;
    put_back_on_failure(io, grid_->largest);
    notes_ = true;
  }

  void forward(ForwardContext& io) override {
    const View& y = io.output();
    run_kernels(name(), io.device(), y.dtype, [&]<class T>(T) {
      const T* const x = io.input(0).as<T>();
      const T* const f = io.input(1).as<T>();
      if (!grid_) {
        PALIMPSEST_RUN(io.device(), couple_forward<T>(y.shape.count(), x, f, y.as<T>()));
        return;
      }
      const kernels::GridWatch<T> watch = watch_of<T>(io);
      const T largest =
          PALIMPSEST_RUN(io.device(), couple_forward_on_grid<T>(y.shape.count(), x, f, grid_->bits, watch, y.as<T>()));
      if (io.device() == Device::Cuda || !io.recorded()) return;
      if (std::isnan(largest)) check_stream(y.shape.count(), x);
      in_range_ = largest < watch.limit;  // NaN is not
    });
  }

  void solve(std::span<const View> inputs, const View& output, const View& solved) const override {
    run_kernels(name(), output.device, output.dtype, [&]<class T>(T) {
      const std::int64_t count = output.shape.count();
      const T* const f = inputs[1].as<T>();
      if (grid_) {
        PALIMPSEST_RUN(output.device, couple_inverse_on_grid<T>(count, output.as<T>(), f, grid_->bits, solved.as<T>()));
      } else {
        PALIMPSEST_RUN(output.device, couple_inverse<T>(count, output.as<T>(), f, solved.as<T>()));
      }
    });
  }

  bool can_solve() const override { return in_range_; }
  bool solves_exactly() const override { return grid_.has_value(); }

  std::vector<View> state() const override {
    return grid_ && grid_->largest ? std::vector{grid_->largest.value().view()} : std::vector<View>();
  }

  void backward(BackwardContext& io) override {
    for (std::size_t i = 0; i < 2; ++i) {
      if (io.wants(i)) io.pass_through(i);
    }
  }

 private:
  /// A stream that is not on the grid could not be solved for without error.
  template <class T>
  void check_stream(std::int64_t count, const T* x) const {
    for (std::int64_t i = 0; i < count; ++i) {
      const T scaled = std::ldexp(x[i], grid_->bits);
      if (scaled == std::nearbyint(scaled) || std::isnan(scaled)) continue;
      throw ValueError(concat_text("[couple] input 0 is not on the grid 2^-", grid_->bits, ": it holds ", x[i],
                                   "; pass it through round_to_grid() first"));
    }
  }

  /// The things that the kernel looks for; on CUDA this takes what is known of the run before as the answer.
  template <class T>
  kernels::GridWatch<T> watch_of(const ForwardContext& io) {
    kernels::GridWatch<T> watch{.checks = io.recorded(), .limit = range_limit<T>(grid_->bits)};
    if (std::exchange(notes_, false)) watch.largest = grid_->largest.mutable_view().template as<T>() + grid_->stage;
    if (RangeMark* const mark = io.mark()) {
      in_range_ = !mark->left();
      watch.mark = mark->begin_run();
      watch.mark_is_fault = in_range_;
    }
    return watch;
  }

  void check_magnitudes(const Tensor& largest, Dtype dtype) const {
    if (largest.dtype() != dtype) {
      throw DtypeError(
          concat_text("[couple] magnitudes are noted in ", largest.dtype(), ", expected ", dtype, " like input 0"));
    }
    if (grid_->stage >= 0 && grid_->stage < largest.shape().count()) return;
    throw ValueError(concat_text("[couple] the stage is ", grid_->stage, ", expected one of the ",
                                 largest.shape().count(), " whose magnitudes are noted"));
  }

  std::optional<Grid> grid_;
  bool notes_ = false;    // its next forward is the first, which notes the largest magnitude
  bool in_range_ = true;  // the sum was exact
};

}  // namespace

void put_back_on_failure(const ForwardContext& io, const Tensor& buffer) {
  if (!io.recorded()) return;
  const Device device = buffer.device();
  const std::size_t bytes = buffer.value().bytes();
  // Undoing must not need memory.
  const auto other = std::make_shared<Buffer>(device, bytes, Tag::Activation);
  const auto passing = std::make_shared<Buffer>(device, bytes, Tag::Activation);
  copy_bytes(other->data(), device, buffer.view().data, device, bytes);
  // Undoing and making again both exchange the bytes that are there with those that are not.
  const auto exchange = [buffer, other, passing, device, bytes] {
    void* const there = buffer.mutable_view().data;
    copy_bytes(passing->data(), device, there, device, bytes);
    copy_bytes(there, device, other->data(), device, bytes);
    copy_bytes(other->data(), device, passing->data(), device, bytes);
  };
  io.on_failure(exchange, exchange);
}

std::vector<TensorSpec> RoundToGrid::infer(std::span<const TensorSpec> inputs) const {
  check_same_float(name(), inputs);
  check_grid(name(), bits_, inputs[0].dtype);
  return {inputs[0]};
}

void RoundToGrid::forward(ForwardContext& io) {
  const View& y = io.output();
  run_kernels(name(), io.device(), y.dtype, [&]<class T>(T) {
    // A number of any size is on the grid when it is rounded. Only couple can see if sums with it are exact.
    PALIMPSEST_RUN(io.device(), round_to_grid<T>(y.shape.count(), io.input(0).as<T>(), bits_, y.as<T>()));
  });
}

Tensor couple(Tensor x, Tensor f, std::optional<Grid> grid) {
  return apply_single(std::make_unique<Couple>(std::move(grid)), inputs_of(std::move(x), std::move(f)));
}

Tensor round_to_grid(Tensor x, int grid) {
  return apply_single(std::make_unique<RoundToGrid>(grid), inputs_of(std::move(x)));
}

}  // namespace palimpsest::ops
