#include "ops/conv2d_plan.hpp"

namespace palimpsest::kernels {

std::int64_t conv2d_forward_workspace(const Conv2dGeometry& g) {
  return g.kernel_h * g.kernel_w * g.c_in * round_up(g.c_out, max_lanes);
}

std::int64_t conv2d_grad_input_workspace(const Conv2dGeometry& g) {
  return g.kernel_h * g.kernel_w * g.c_out * round_up(g.c_in, max_lanes);
}

std::int64_t conv2d_grad_weight_workspace(const Conv2dGeometry& g) {
  const WeightGradientSplit split = split_weight_gradient(g);
  return split.chunks * split.partial;
}

}  // namespace palimpsest::kernels
