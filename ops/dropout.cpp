#include <palimpsest/ops/dropout.hpp>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/dropout.hpp>

namespace palimpsest::ops {
namespace {

class Dropout : public Op {
 public:
  Dropout(double probability, std::shared_ptr<Generator> generator)
      : probability_(probability), generator_(std::move(generator)) {}

  std::string_view name() const override { return "dropout"; }
  Cost cost() const override { return Cost::Cheap; }
  int overwritable_input() const override { return 0; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    if (!(probability_ >= 0 && probability_ < 1)) {
      throw ValueError(concat_text("[dropout] probability is ", probability_, ", expected at least 0 and below 1"));
    }
    return {inputs[0]};
  }

  void begin(ForwardContext& io) override {
    seed_ = generator_->seed;
    offset_ = generator_->reserve((static_cast<std::uint64_t>(io.input(0).shape.count()) + 3) / 4);
    const auto before = std::make_shared<std::uint64_t>(offset_);
    io.on_failure([generator = generator_, before] { generator->offset = *before; },
                  [generator = generator_, before, after = generator_->offset] {
                    *before = generator->offset;
                    generator->offset = after;
                  });
  }
  void forward(ForwardContext& io) override { apply_mask(io.input(0), io.output(), false); }

  std::vector<View> state() const override { return {{&generator_->offset, {1}, Dtype::Float64, Device::Cpu}}; }

  void backward(BackwardContext& io) override {
    const View dy = io.grad_output();
    const GradientTarget dx = io.grad_input_over(0);
    apply_mask(dy, dx.view, dx.accumulate);
  }

 private:
  void apply_mask(const View& from, const View& to, bool accumulate) const {
    run_kernels(name(), from.device, from.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(from.device, dropout<T>(from.shape.count(), from.as<T>(), to.as<T>(), probability_, seed_, offset_,
                                             accumulate));
    });
  }

  double probability_;
  std::shared_ptr<Generator> generator_;
  std::uint64_t seed_ = 0;  // frozen by begin()
  std::uint64_t offset_ = 0;
};

}  // namespace

Tensor dropout(Tensor x, double probability, std::shared_ptr<Generator> generator) {
  if (generator == nullptr) throw ValueError("[dropout] needs a generator");
  return apply_single(std::make_unique<Dropout>(probability, std::move(generator)), inputs_of(std::move(x)));
}

}  // namespace palimpsest::ops
