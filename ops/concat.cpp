#include <palimpsest/ops/concat.hpp>

#include <memory>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/elementwise.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/concat_op.hpp>
#include <palimpsest/ops/join.hpp>

namespace palimpsest::ops {
namespace {

[[noreturn]] void throw_mismatch(std::size_t i, const Shape& shape, const Shape& first) {
  std::string expected = concat_text("(", first.n(), ", *");
  if (first.rank() == 4) expected += concat_text(", ", first.h(), ", ", first.w());
  throw ShapeError(concat_text("[concat] input ", i, " is ", shape, ", expected ", expected, ")"));
}

class Split : public Op {
 public:
  explicit Split(std::vector<std::int64_t> channels) : channels_(std::move(channels)) {}

  std::string_view name() const override { return "split"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_same_float(name(), inputs);
    const Shape& shape = inputs[0].shape;
    std::vector<TensorSpec> parts;
    std::int64_t total = 0;
    for (const std::int64_t channels : channels_) {
      if (channels < 1) throw ShapeError(concat_text("[split] a part of ", channels, " channels, expected at least 1"));
      if (shape.rank() >= 2) parts.push_back({shape.with_channels(channels), inputs[0].dtype});
      total += channels;
    }
    if (shape.rank() < 2 || total != shape.c()) {
      throw ShapeError(concat_text("[split] input 0 is ", shape, ", expected ", total, " channels to part"));
    }
    return parts;
  }

  void forward(ForwardContext& io) override {
    std::vector<GradientTarget> parts;
    for (const View& output : io.outputs()) parts.push_back({output, false});
    scatter(name(), io.input(0), parts);
  }

  void backward(BackwardContext& io) override {
    const GradientTarget dx = io.grad_input(0);
    const Dtype dtype = dx.view.dtype;
    std::vector<View> parts;
    std::vector<Buffer> zeros;
    for (std::size_t o = 0; o < channels_.size(); ++o) {
      parts.push_back(io.grad_output(o));
      if (parts.back()) continue;  // nothing flowed into this part
      zeros.push_back(io.workspace(static_cast<std::size_t>(parts.back().shape.count()) * size_of(dtype)));
      zero_bytes(zeros.back().data(), io.device(), zeros.back().bytes());
      parts.back().data = zeros.back().data();
    }
    if (!dx.accumulate) {
      gather(name(), parts, dx.view);
      return;
    }
    const Buffer sum = io.workspace(static_cast<std::size_t>(dx.view.shape.count()) * size_of(dtype));
    View whole = dx.view;
    whole.data = sum.data();
    gather(name(), parts, whole);
    accumulate(dx.view.data, sum.data(), dx.view.shape.count(), dtype, io.device());
  }

 private:
  std::vector<std::int64_t> channels_;
};

}  // namespace

std::vector<TensorSpec> Concat::infer(std::span<const TensorSpec> inputs) const {
  check_same_float(name(), inputs);
  const Shape& first = inputs[0].shape;
  if (first.rank() != 2 && first.rank() != 4) {
    throw ShapeError(concat_text("[concat] input 0 is ", first, ", expected (N, C, H, W) or (N, C)"));
  }
  std::int64_t channels = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Shape& shape = inputs[i].shape;
    if (shape.rank() != first.rank() || shape.with_channels(1) != first.with_channels(1))
      throw_mismatch(i, shape, first);
    channels += shape.c();
  }
  return {{first.with_channels(channels), inputs[0].dtype}};
}

void Concat::forward(ForwardContext& io) { gather(name(), io.inputs(), io.output()); }

void Concat::backward(BackwardContext& io) {
  std::vector<GradientTarget> targets;
  for (std::size_t i = 0; i < io.input_count(); ++i) {
    GradientTarget unwanted;
    unwanted.view.shape = io.input_shape(i);
    targets.push_back(io.wants(i) ? io.grad_input(i) : unwanted);
  }
  scatter(name(), io.grad_output(), targets);
}

Tensor concat(std::span<const Tensor> inputs) {
  if (inputs.empty()) throw ValueError("[concat] needs at least one input");
  if (inputs.size() == 1) return inputs[0];
  return apply_when_read(std::make_unique<Concat>(), {inputs.begin(), inputs.end()});
}

std::vector<Tensor> split(const Tensor& x, std::span<const std::int64_t> channels) {
  if (channels.empty()) throw ValueError("[split] needs at least one part");
  return apply(std::make_unique<Split>(std::vector<std::int64_t>(channels.begin(), channels.end())), {x});
}

}  // namespace palimpsest::ops
