#include <palimpsest/ops/gemm.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>
#include <palimpsest/ops/kernels/bias.hpp>
#include <palimpsest/ops/kernels/conv2d_cuda_partition.hpp>
#include <palimpsest/ops/kernels/conv2d_partition.hpp>
#include <palimpsest/ops/kernels/norm_conv_cuda_partition.hpp>
#include <palimpsest/ops/kernels/norm_conv_partition.hpp>

namespace palimpsest::kernels {
namespace {

/// Elements that the CPU's kernels take, beside packed_elements().
Index weight_gradient_elements(const Conv2dGeometry& g, std::size_t element_bytes) {
  if (winograd_weight(g, element_bytes)) return winograd_weight_chunks(g) * winograd_blocks(g).partial;
  const WeightGradientSplit split = split_weight_gradient(g);
  return split.chunks * split.partial;
}

Index norm_conv_elements(const NormConvGeometry& g, std::size_t) {
  return parameter_elements(g) + g.channels * round_up(g.outputs, max_lanes);
}

Index norm_conv_gradient_elements(const NormConvGeometry& g, std::size_t) {
  const NormConvSplit split = split_backward(g);
  return split.sum_elements + split.chunks * split.partial + g.outputs * round_up(g.channels, max_lanes) +
         parameter_elements(g);
}

Index norm_conv2d_elements(const Conv2dGeometry& g, std::size_t element_bytes) {
  const NormConv2dCut cut = cut_images(g, element_bytes);
  return parameter_elements({0, g.c_in, 0, 0}) + round_up(packed_elements(g, element_bytes), max_lanes) +
         cut.chunks * cut.elements;
}

Index norm_conv2d_gradient_elements(const Conv2dGeometry& g, std::size_t element_bytes) {
  const NormConv2dCut cut = cut_images(g, element_bytes);
  return round_up(cut.chunks * 4 * g.c_in, max_lanes) + cut.chunks * (cut.partial + 2 * cut.elements) +
         round_up(packed_gradient_elements(g, element_bytes), max_lanes) + parameter_elements({0, g.c_in, 0, 0});
}

/// Bytes on a device: on CUDA those of the products and `cuda(geometry, element_bytes)` of the kernel's own, else
/// `elements(geometry, element_bytes)` elements.
template <class Geometry>
std::size_t workspace(Device device, const Geometry& g, std::size_t element_bytes,
                      Index (*elements)(const Geometry&, std::size_t), Index (*cuda)(const Geometry&, Index)) {
  if (kernel_device(device) != Device::Cuda) {
    return static_cast<std::size_t>(elements(g, element_bytes)) * element_bytes;
  }
  return gemm_workspace(Device::Cuda) + static_cast<std::size_t>(cuda(g, static_cast<Index>(element_bytes)));
}

}  // namespace

std::size_t conv2d_forward_workspace(Device device, const Conv2dGeometry& g, std::size_t element_bytes) {
  return workspace(device, g, element_bytes, packed_elements, gpu_geometry::column_chunk_bytes);
}

std::size_t conv2d_grad_input_workspace(Device device, const Conv2dGeometry& g, std::size_t element_bytes) {
  return workspace(device, g, element_bytes, packed_gradient_elements, gpu_geometry::grad_input_bytes);
}

std::size_t conv2d_grad_weight_workspace(Device device, const Conv2dGeometry& g, std::size_t element_bytes) {
  return workspace(device, g, element_bytes, weight_gradient_elements, gpu_geometry::column_chunk_bytes);
}

bool norm_conv2d_fits(const Conv2dGeometry& g, std::size_t element_bytes) {
  constexpr Index most_bytes = 1 << 20;
  const Index image = g.h_in * g.w_in * g.c_in * static_cast<Index>(element_bytes);
  // With a stride along one of two dimensions only, a part of the data gradient would be one matrix product over all
  // pixels of a unit, and then the packing of its weights would depend on how many images that has.
  const bool flattens = g.stride_h > 1 && (g.w_in == 1 || g.stride_w == 1);
  // Four chunks of partial sums at least, and a kernel that the convolution takes as a whole.
  return !flattens && image <= most_bytes && split_weight_gradient(g).partial <= Index{1} << 17 &&
         g.kernel_h * g.kernel_w <= 128 && g.kernel_h <= 16 && g.kernel_w <= 16 && g.stride_h <= 8 && g.stride_w <= 8;
}

std::size_t norm_conv_forward_workspace(Device device, const NormConvGeometry& g, std::size_t element_bytes) {
  return workspace(device, g, element_bytes, norm_conv_elements, gpu_geometry::norm_conv_forward_bytes);
}

std::size_t norm_conv_backward_workspace(Device device, const NormConvGeometry& g, std::size_t element_bytes) {
  return workspace(device, g, element_bytes, norm_conv_gradient_elements, gpu_geometry::norm_conv_backward_bytes);
}

std::size_t norm_conv2d_forward_workspace(Device device, const Conv2dGeometry& g, std::size_t element_bytes) {
  return workspace(device, g, element_bytes, norm_conv2d_elements, gpu_geometry::norm_conv2d_forward_bytes);
}

std::size_t norm_conv2d_backward_workspace(Device device, const Conv2dGeometry& g, std::size_t element_bytes) {
  return workspace(device, g, element_bytes, norm_conv2d_gradient_elements, gpu_geometry::norm_conv2d_backward_bytes);
}

std::size_t channel_sum_workspace(Device device, std::int64_t rows, std::int64_t channels) {
  const Index parts = kernel_device(device) == Device::Cuda ? gpu_geometry::channel_reduction(rows, channels).parts
                                                            : smaller(64, ceil_div(rows, 16));
  return static_cast<std::size_t>(channels * parts) * sizeof(double);
}

std::size_t batch_norm_workspace(Device device, std::int64_t rows, std::int64_t channels) {
  return 2 * channel_sum_workspace(device, rows, channels);
}

}  // namespace palimpsest::kernels
