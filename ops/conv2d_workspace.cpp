#include <atomic>

#include "ops/conv2d.hpp"
#include "ops/conv2d_cuda_plan.hpp"
#include "ops/conv2d_plan.hpp"
#include "ops/gemm.hpp"
#include "ops/norm_conv_cuda_plan.hpp"
#include "ops/norm_conv_plan.hpp"

namespace palimpsest::ops {
namespace {

std::atomic<std::size_t> column_bytes{std::size_t{32} << 20};

}  // namespace

void set_column_limit(std::size_t bytes) {
  if (bytes == 0) throw ValueError("[conv2d] a limit of no bytes for columns, expected at least 1");
  column_bytes = bytes;
}

std::size_t column_limit() { return column_bytes; }

}  // namespace palimpsest::ops

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

std::int64_t norm_conv_forward_workspace(const NormConvGeometry& g) {
  return parameter_elements(g) + g.channels * round_up(g.outputs, max_lanes);
}

std::int64_t norm_conv_backward_workspace(const NormConvGeometry& g) {
  const NormConvSplit split = split_backward(g);
  return split.sum_elements + split.chunks * split.partial + g.outputs * round_up(g.channels, max_lanes) +
         parameter_elements(g);
}

}  // namespace palimpsest::kernels

namespace palimpsest::kernels::gpu {
namespace {

std::size_t with_products(std::int64_t bytes) { return gemm_workspace(Device::Cuda) + static_cast<std::size_t>(bytes); }
std::int64_t limit() { return static_cast<std::int64_t>(column_limit()); }

}  // namespace

std::size_t column_limit() { return ops::column_limit(); }

std::size_t conv2d_forward_workspace(const Conv2dGeometry& g, std::size_t element_bytes) {
  return with_products(gpu_geometry::column_chunk_bytes(g, static_cast<std::int64_t>(element_bytes), limit()));
}

std::size_t conv2d_grad_input_workspace(const Conv2dGeometry& g, std::size_t element_bytes) {
  return with_products(gpu_geometry::grad_input_bytes(g, static_cast<std::int64_t>(element_bytes), limit()));
}

std::size_t conv2d_grad_weight_workspace(const Conv2dGeometry& g, std::size_t element_bytes) {
  return conv2d_forward_workspace(g, element_bytes);
}

std::size_t norm_conv_forward_workspace(const NormConvGeometry& g, std::size_t element_bytes) {
  return with_products(gpu_geometry::norm_conv_forward_bytes(g, static_cast<std::int64_t>(element_bytes), limit()));
}

std::size_t norm_conv_backward_workspace(const NormConvGeometry& g, std::size_t element_bytes) {
  return with_products(gpu_geometry::norm_conv_backward_bytes(g, static_cast<std::int64_t>(element_bytes), limit()));
}

}  // namespace palimpsest::kernels::gpu
