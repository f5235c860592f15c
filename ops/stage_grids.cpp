#include <palimpsest/ops/stage_grids.hpp>

#include <algorithm>
#include <cmath>
#include <memory>

#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/couple_op.hpp>

namespace palimpsest::ops {
namespace {

constexpr int first_bits = 16;
constexpr int headroom = 2;  // bits that the first magnitudes leave free: later ones are larger

std::int32_t in_force(std::int32_t bits) { return bits < 0 ? first_bits : bits; }

/// The rule of StageGrids.
std::int32_t next_bits(std::int32_t bits, double largest, int digits) {
  if (!std::isfinite(largest) || largest == 0) return bits;
  if (bits >= 0 && largest < std::ldexp(1.0, digits - bits)) return bits;
  return std::clamp(digits - headroom - (std::ilogb(largest) + 1), 0, digits - 1);
}

template <class T>
std::vector<T> on_host(const Tensor& tensor, T without_numbers) {
  std::vector<T> values(static_cast<std::size_t>(tensor.shape().count()), without_numbers);
  copy_bytes(values.data(), Device::Cpu, tensor.view().data, tensor.device(), tensor.value().bytes());
  return values;
}

void write_back(const Tensor& tensor, const void* from) {
  const View to = tensor.mutable_view();
  copy_bytes(to.data, to.device, from, Device::Cpu, to.bytes());
}

/// Chooses when it begins, and rounds to the first grid.
class RoundToStageGrid : public RoundToGrid {
 public:
  RoundToStageGrid(StageGrids grids, bool training, std::shared_ptr<std::vector<std::int32_t>> chosen)
      : RoundToGrid(first_bits), grids_(std::move(grids)), training_(training), chosen_(std::move(chosen)) {}

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    std::vector<TensorSpec> specs = RoundToGrid::infer(inputs);
    if (grids_.bits.shape() != grids_.largest.shape() || grids_.bits.shape().rank() != 1) {
      throw ShapeError(concat_text("[", name(), "] grids of ", grids_.bits.shape(), " stages with magnitudes of ",
                                   grids_.largest.shape(), ", expected (stages) of both"));
    }
    if (grids_.bits.dtype() != Dtype::Int32 || grids_.largest.dtype() != inputs[0].dtype) {
      throw DtypeError(concat_text("[", name(), "] grids are ", grids_.bits.dtype(), " and ", grids_.largest.dtype(),
                                   ", expected int32 and ", inputs[0].dtype, " like input 0"));
    }
    return specs;
  }

  void begin(ForwardContext& io) override {
    std::vector<std::int32_t> bits = on_host<std::int32_t>(grids_.bits, -1);
    if (training_) {
      put_back_on_failure(io, grids_.bits);
      put_back_on_failure(io, grids_.largest);
      run_kernels(name(), io.device(), grids_.largest.dtype(), [&]<class T>(T) {
        std::vector<T> largest = on_host<T>(grids_.largest, 0);
        for (std::size_t stage = 0; stage < bits.size(); ++stage) {
          bits[stage] = next_bits(bits[stage], static_cast<double>(largest[stage]), mantissa_bits(dtype_of<T>));
          largest[stage] = 0;
        }
        write_back(grids_.bits, bits.data());
        write_back(grids_.largest, largest.data());
      });
    }
    std::transform(bits.begin(), bits.end(), bits.begin(), in_force);
    bits_ = bits[0];
    *chosen_ = std::move(bits);
  }

  std::vector<View> state() const override { return {grids_.bits.value().view(), grids_.largest.value().view()}; }

 private:
  StageGrids grids_;
  bool training_;
  std::shared_ptr<std::vector<std::int32_t>> chosen_;
};

}  // namespace

StageGrids StageGrids::make(std::int64_t stages, Dtype dtype, Device device) {
  const std::vector<std::int32_t> none(static_cast<std::size_t>(stages), -1);
  return {Tensor::from_vector<std::int32_t>({stages}, none, device, Tag::Parameter),
          Tensor::zeros({stages}, dtype, device, Tag::Parameter)};
}

OnStageGrids round_to_stage_grids(Tensor x, const StageGrids& grids, bool training) {
  for (const Tensor* buffer : {&grids.bits, &grids.largest}) {
    if (!x || buffer->device() == x.device()) continue;
    throw DeviceError(
        concat_text("[round_to_grid] grids are on ", buffer->device(), ", expected ", x.device(), " like input 0"));
  }
  const auto chosen = std::make_shared<std::vector<std::int32_t>>();
  OnStageGrids result;
  result.x = apply_single(std::make_unique<RoundToStageGrid>(grids, training, chosen), inputs_of(std::move(x)));
  for (std::size_t stage = 0; stage < chosen->size(); ++stage) {
    result.grids.emplace_back((*chosen)[stage], grids.largest, static_cast<std::int64_t>(stage));
  }
  return result;
}

}  // namespace palimpsest::ops
