#include <palimpsest/ops/couple.hpp>

#include <cmath>
#include <limits>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/couple.hpp>

namespace palimpsest::ops {
namespace {

int mantissa_bits(Dtype dtype) { return dtype == Dtype::Float64 ? 53 : 24; }

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

/// The limit that a kernel on CUDA is given where nothing will be solved for: it compares nothing then.
template <class T>
constexpr T no_limit = std::numeric_limits<T>::infinity();

class Couple : public Op {
 public:
  explicit Couple(std::optional<int> grid) : grid_(grid) {}

  std::string_view name() const override { return "couple"; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return 1; }
  int solvable_input() const override { return 0; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    check_shape(name(), 1, inputs[1].shape, inputs[0].shape);
    if (grid_) check_grid(name(), *grid_, inputs[0].dtype);
    return {inputs[0]};
  }

  void forward(ForwardContext& io) override {
    const View& y = io.output();
    run_kernels(name(), io.device(), y.dtype, [&]<class T>(T) {
      const T* const x = io.input(0).as<T>();
      const T* const f = io.input(1).as<T>();
      if (grid_) {
        const T limit = io.recorded() ? range_limit<T>(*grid_) : no_limit<T>;
        const T largest =
            PALIMPSEST_RUN(io.device(), couple_forward_on_grid<T>(y.shape.count(), x, f, *grid_, limit, y.as<T>()));
        if (!io.recorded()) return;
        if (std::isnan(largest)) check_stream(y.shape.count(), x);
        in_range_ = largest < limit;  // NaN is not. On CUDA the kernel has compared, and `largest` is 0.
      } else {
        PALIMPSEST_RUN(io.device(), couple_forward<T>(y.shape.count(), x, f, y.as<T>()));
      }
    });
  }

  void solve(std::span<const View> inputs, const View& output, const View& solved) const override {
    run_kernels(name(), output.device, output.dtype, [&]<class T>(T) {
      const std::int64_t count = output.shape.count();
      const T* const f = inputs[1].as<T>();
      if (grid_) {
        PALIMPSEST_RUN(output.device, couple_inverse_on_grid<T>(count, output.as<T>(), f, *grid_, solved.as<T>()));
      } else {
        PALIMPSEST_RUN(output.device, couple_inverse<T>(count, output.as<T>(), f, solved.as<T>()));
      }
    });
  }

  bool can_solve() const override { return in_range_; }
  bool solves_exactly() const override { return grid_.has_value(); }

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
      const T scaled = std::ldexp(x[i], *grid_);
      if (scaled == std::nearbyint(scaled) || std::isnan(scaled)) continue;
      throw ValueError(concat_text("[couple] input 0 is not on the grid 2^-", *grid_, ": it holds ", x[i],
                                   "; pass it through round_to_grid() first"));
    }
  }

  std::optional<int> grid_;
  bool in_range_ = true;  // the sum was exact
};

class RoundToGrid : public Op {
 public:
  explicit RoundToGrid(int grid) : grid_(grid) {}

  std::string_view name() const override { return "round_to_grid"; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return 0; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    check_grid(name(), grid_, inputs[0].dtype);
    return {inputs[0]};
  }

  void forward(ForwardContext& io) override {
    const View& y = io.output();
    run_kernels(name(), io.device(), y.dtype, [&]<class T>(T) {
      // A number of any size is on the grid when it is rounded. Only couple can see if sums with it are exact.
      PALIMPSEST_RUN(io.device(),
                     round_to_grid<T>(y.shape.count(), io.input(0).as<T>(), grid_, no_limit<T>, y.as<T>()));
    });
  }

  void backward(BackwardContext& io) override { io.pass_through(0); }

 private:
  int grid_;
};

}  // namespace

Tensor couple(Tensor x, Tensor f, std::optional<int> grid) {
  return apply_single(std::make_unique<Couple>(grid), inputs_of(std::move(x), std::move(f)));
}

Tensor round_to_grid(Tensor x, int grid) {
  return apply_single(std::make_unique<RoundToGrid>(grid), inputs_of(std::move(x)));
}

}  // namespace palimpsest::ops
