#include <palimpsest/ops/cross_entropy.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/cross_entropy.hpp>

namespace palimpsest::ops {
namespace {

void check_inputs(std::string_view op, const TensorSpec& logits, const TensorSpec& labels) {
  check_same_float(op, {&logits, 1});
  const Shape& x = logits.shape;
  if (x.rank() != 2) check_rank(op, 0, x, 4, "(N, K) or (N, K, H, W)");
  if (labels.dtype != Dtype::Int32)
    throw DtypeError(concat_text("[", op, "] labels are ", labels.dtype, ", expected int32"));
  check_shape(op, 1, labels.shape, x.rank() == 2 ? Shape{x.n()} : Shape{x.n(), x.h(), x.w()});
}

void check_labels(std::string_view op, const ConstView& labels, std::int64_t classes, std::int64_t ignored) {
  if (labels.device != Device::Cpu) return;
  for (std::int64_t i = 0; i < labels.shape.count(); ++i) {
    const std::int32_t label = labels.as<std::int32_t>()[i];
    if ((label >= 0 && label < classes) || label == ignored) continue;
    throw ValueError(concat_text("[", op, "] label ", i, " is ", label, ", expected 0 to ", classes - 1));
  }
}

std::int64_t ignored_label(const CrossEntropyOptions& options) {
  return options.ignored ? *options.ignored : kernels::nothing_ignored;
}

class CrossEntropy : public Op {
 public:
  explicit CrossEntropy(const CrossEntropyOptions& options)
      : ignored_(ignored_label(options)), smoothing_(options.label_smoothing) {}

  std::string_view name() const override { return "cross_entropy"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {.inputs = bits(0, 1)}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    check_inputs(name(), inputs[0], inputs[1]);
    if (!(smoothing_ >= 0 && smoothing_ <= 1)) {
      throw ValueError(concat_text("[cross_entropy] label smoothing is ", smoothing_, ", expected 0 to 1"));
    }
    return {{{}, inputs[0].dtype}};
  }

  void forward(ForwardContext& io) override {
    const View& logits = io.input(0);
    const View& labels = io.input(1);
    check_labels(name(), labels, logits.shape.c(), ignored_);
    run_kernels(name(), io.device(), logits.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(),
                     cross_entropy_forward<T>(logits.shape.pixels(), logits.shape.c(), logits.as<T>(),
                                              labels.as<std::int32_t>(), ignored_, smoothing_, io.output().as<T>()));
    });
  }

  void backward(BackwardContext& io) override {
    const View logits = io.input(0);
    const View labels = io.input(1);
    const View dloss = io.grad_output();
    const GradientTarget target = io.grad_input(0);
    const bool ignores = ignored_ != kernels::nothing_ignored;
    const Buffer counted = ignores ? io.workspace(sizeof(std::int64_t)) : Buffer();
    run_kernels(name(), io.device(), logits.dtype, [&]<class T>(T) {
      PALIMPSEST_RUN(io.device(), cross_entropy_backward<T>(logits.shape.pixels(), logits.shape.c(), logits.as<T>(),
                                                            labels.as<std::int32_t>(), ignored_, smoothing_,
                                                            dloss.as<T>(), target.view.as<T>(), target.accumulate,
                                                            ignores ? counted.as<std::int64_t>() : nullptr));
    });
  }

 private:
  std::int64_t ignored_;
  double smoothing_;
};

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& labels, const CrossEntropyOptions& options) {
  return apply_single(std::make_unique<CrossEntropy>(options), {logits, labels});
}

std::int64_t count_correct(const Tensor& logits, const Tensor& labels, const CrossEntropyOptions& options) {
  constexpr std::string_view op = "count_correct";
  check_inputs(op, {logits.shape(), logits.dtype()}, {labels.shape(), labels.dtype()});
  const ConstView scores = logits.view();
  const ConstView expected = labels.view();
  const std::int64_t ignored = ignored_label(options);
  check_labels(op, expected, scores.shape.c(), ignored);
  const Buffer count(scores.device, sizeof(std::int64_t), Tag::Workspace);
  run_kernels(op, scores.device, scores.dtype, [&]<class T>(T) {
    PALIMPSEST_RUN(scores.device, argmax_correct<T>(scores.shape.pixels(), scores.shape.c(), scores.as<T>(),
                                                    expected.as<std::int32_t>(), ignored, count.as<std::int64_t>()));
  });
  std::int64_t correct = 0;
  copy_bytes(&correct, Device::Cpu, count.data(), scores.device, sizeof correct);
  return correct;
}

}  // namespace palimpsest::ops
