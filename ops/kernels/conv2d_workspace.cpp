#include <atomic>

#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/gemm.hpp>
#include <palimpsest/ops/kernels/conv2d_cuda_partition.hpp>
#include <palimpsest/ops/kernels/conv2d_partition.hpp>
#include <palimpsest/ops/kernels/norm_conv_cuda_partition.hpp>
#include <palimpsest/ops/kernels/norm_conv_partition.hpp>

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

bool norm_conv2d_fits(const Conv2dGeometry& g, std::size_t element_bytes) {
  constexpr Index most_bytes = 1 << 20;
  const Index image = g.h_in * g.w_in * g.c_in * static_cast<Index>(element_bytes);
  // With a stride along one of two dimensions only, a part of the data gradient would be one matrix product over all
  // pixels of a unit, and then the packing of its weights would depend on how many images that has.
  const bool flattens = g.stride_h > 1 && (g.w_in == 1 || g.stride_w == 1);
  // Eight chunks of partial sums at least, and a kernel that the convolution takes as a whole.
  return !flattens && image <= most_bytes && split_weight_gradient(g).partial <= Index{1} << 17 &&
         g.kernel_h * g.kernel_w <= 128 && g.kernel_h <= 16 && g.kernel_w <= 16 && g.stride_h <= 8 && g.stride_w <= 8;
}

std::int64_t norm_conv2d_forward_workspace(const Conv2dGeometry& g) {
  const NormConv2dCut cut = cut_images(g);
  return parameter_elements({0, g.c_in, 0, 0}) + round_up(conv2d_forward_workspace(g), max_lanes) +
         cut.chunks * cut.elements;
}

std::int64_t norm_conv2d_backward_workspace(const Conv2dGeometry& g) {
  const NormConv2dCut cut = cut_images(g);
  return round_up(cut.chunks * 4 * g.c_in, max_lanes) + cut.chunks * (cut.partial + 2 * cut.elements) +
         round_up(conv2d_grad_input_workspace(g), max_lanes) + parameter_elements({0, g.c_in, 0, 0});
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

std::size_t norm_conv2d_forward_workspace(const Conv2dGeometry& g, std::size_t element_bytes) {
  return with_products(gpu_geometry::norm_conv2d_forward_bytes(g, static_cast<std::int64_t>(element_bytes), limit()));
}

std::size_t norm_conv2d_backward_workspace(const Conv2dGeometry& g, std::size_t element_bytes) {
  return with_products(gpu_geometry::norm_conv2d_backward_bytes(g, static_cast<std::int64_t>(element_bytes), limit()));
}

}  // namespace palimpsest::kernels::gpu
