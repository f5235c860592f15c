#include <palimpsest/nn/models/residual.hpp>

#include <algorithm>

#include <palimpsest/nn/models/stages.hpp>
#include <palimpsest/ops/pad_channels.hpp>
#include <palimpsest/ops/pool.hpp>

namespace palimpsest::nn {
namespace {

constexpr BatchNormOptions norm_options = {
    .epsilon = 1e-3, .momentum = 0.01, .unbiased_running_variance = false, .relu = true};

/// TensorFlow's SAME padding of sides that the stride divides.
ops::Padding same(std::int64_t kernel, std::int64_t stride) {
  const std::int64_t all = std::max<std::int64_t>(0, kernel - stride);
  return {all / 2, all / 2, all - all / 2, all - all / 2};
}

Conv2dOptions conv_options(std::int64_t kernel, std::int64_t stride) {
  return {.kernel = kernel,
          .stride = stride,
          .padding = same(kernel, stride),
          .initialisation = Initialisation::HeTruncatedNormal};
}

Conv2dOptions stem_options(const ResidualOptions& spec) {
  return spec.imagenet_stem ? conv_options(7, 2) : conv_options(3, 1);
}

const ResidualOptions& checked(const ResidualOptions& spec) {
  check_stages("residual network", spec);
  return spec;
}

}  // namespace

Residual::Residual(Init& init, const UnitShape& shape, bool bottleneck, bool activate_first) {
  const std::int64_t width = bottleneck ? shape.out / 4 : shape.out;
  const auto add = [&](std::int64_t in, std::int64_t out, const Conv2dOptions& options) {
    const std::size_t number = stages_.size() + 1;
    Stage stage;
    if (number > 1 || activate_first) {
      stage.norm = std::make_unique<BatchNorm2d>(init, in, norm_options);
      add_module(concat_text("norm", number), *stage.norm);
    }
    stage.conv = std::make_unique<Conv2d>(init, in, out, options);
    add_module(concat_text("conv", number), *stage.conv);
    stages_.push_back(std::move(stage));
  };
  if (bottleneck) {
    add(shape.in, width, conv_options(1, shape.stride));
    add(width, width, conv_options(3, 1));
    add(width, shape.out, conv_options(1, 1));
  } else {
    add(shape.in, width, conv_options(3, shape.stride));
    add(width, shape.out, conv_options(3, 1));
  }
}

Tensor Residual::operator()(Tensor x) const {
  for (const Stage& stage : stages_) {
    if (stage.norm != nullptr) x = (*stage.norm)(std::move(x));
    x = (*stage.conv)(std::move(x));
  }
  return x;
}

Shortcut::Shortcut(Init& init, const UnitShape& shape, bool bottleneck) : shape_(shape) {
  if (!bottleneck && shape.out < shape.in) {
    throw ValueError(concat_text("residual network: a unit of ", shape.out, " channels behind ", shape.in,
                                 ", expected at least as many: a shortcut without a bottleneck adds zero channels, and "
                                 "takes none away"));
  }
  if (!bottleneck || !shape.changes()) return;
  project_ = std::make_unique<Conv2d>(init, shape.in, shape.out, conv_options(1, shape.stride));
  add_module("project", *project_);
}

Tensor Shortcut::operator()(Tensor x) const {
  if (project_ != nullptr) return (*project_)(std::move(x));
  if (shape_.stride > 1) x = ops::avg_pool2d(x, shape_.stride, shape_.stride);
  const std::int64_t added = shape_.out - shape_.in;
  return added > 0 ? ops::pad_channels(x, added / 2, added - added / 2) : x;
}

std::int64_t cifar_units(std::int64_t depth, std::int64_t layers, std::string_view model) {
  const std::int64_t units = (depth - 2) / layers;
  if (units >= 1 && units * layers + 2 == depth) return units;
  const std::int64_t below = std::max<std::int64_t>(units, 1) * layers + 2;
  throw ValueError(concat_text(model, " depth is ", depth, ", expected 2 plus a multiple of ", layers, ", like ", below,
                               " or ", below + layers));
}

ResidualNetwork::ResidualNetwork(const ResidualOptions& spec, Init& init)
    : conv0_(init, checked(spec).image_channels, spec.stem_channels, stem_options(spec)),
      norm0_(init, spec.stem_channels, norm_options) {
  add_module("conv0", conv0_);
  add_module("norm0", norm0_);
  if (!spec.imagenet_stem) return;
  pooled_stem_ = std::make_unique<ImageNetStem>(conv0_, norm0_, same(3, 2));
  add_module("stem", *pooled_stem_);
}

Tensor ResidualNetwork::stem(Tensor images) {
  return pooled_stem_ != nullptr ? (*pooled_stem_)(std::move(images)) : norm0_(conv0_(std::move(images)));
}

void ResidualNetwork::add_head(const ResidualOptions& spec, Init& init) {
  const std::int64_t channels = spec.stage_channels(spec.filters.size() - 1);
  norm_ = std::make_unique<BatchNorm2d>(init, channels, norm_options);
  classifier_ = std::make_unique<Linear>(init, channels, spec.classes, Initialisation::LecunUniform);
  add_module("norm", *norm_);
  add_module("classifier", *classifier_);
}

Tensor ResidualNetwork::head(Tensor x) const { return (*classifier_)(ops::global_avg_pool((*norm_)(std::move(x)))); }

UnitShape ResidualNetwork::unit_shape(const ResidualOptions& spec, std::size_t s, std::int64_t u) {
  const std::int64_t out = spec.stage_channels(s);
  if (u > 0) return {out, out, 1};
  return {s == 0 ? spec.stem_channels : spec.stage_channels(s - 1), out, s == 0 ? 1 : 2};
}

}  // namespace palimpsest::nn
