#include <palimpsest/ops/tensor_list.hpp>

#include <cmath>

#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/tensor_list.hpp>

namespace palimpsest::ops {
namespace {

void check_list(std::string_view name, std::span<const Tensor> tensors) {
  std::vector<TensorSpec> specs;
  for (const Tensor& tensor : tensors) {
    specs.push_back({tensor.shape(), tensor.dtype()});
    if (tensor.device() == tensors[0].device()) continue;
    throw DeviceError(concat_text("[", name, "] input ", specs.size() - 1, " is on ", tensor.device(), ", expected ",
                                  tensors[0].device(), " like input 0"));
  }
  check_same_float(name, specs);
}

/// Runs `body` with a list of the tensors as kernels take them; `data` gives the place of one.
template <class Data, class Body>
void with_list(std::string_view name, std::span<const Tensor> tensors, const Data& data, const Body& body) {
  run_kernels(name, tensors[0].device(), tensors[0].dtype(), [&]<class T>(T) {
    std::vector<kernels::ListedTensor<T>> list;
    for (const Tensor& tensor : tensors) list.push_back({tensor.shape().count(), static_cast<T*>(data(tensor))});
    body(static_cast<std::int64_t>(list.size()), list.data());
  });
}

/// The norm only reads, whatever the kernels' list says.
void* to_read(const Tensor& tensor) { return const_cast<void*>(tensor.view().data); }
void* to_write(const Tensor& tensor) { return tensor.mutable_view().data; }

}  // namespace

double l2_norm(std::span<const Tensor> tensors) {
  if (tensors.empty()) return 0;
  check_list("l2_norm", tensors);
  const Device device = tensors[0].device();
  double sum = 0;
  if (kernel_device(device) != Device::Cuda) {
    with_list("l2_norm", tensors, to_read, [&]<class T>(std::int64_t count, const kernels::ListedTensor<T>* list) {
      PALIMPSEST_CALL(sum_of_squares<T>(count, list, nullptr, &sum));
    });
    return std::sqrt(sum);
  }
  std::int64_t blocks = 0;
  for (const Tensor& tensor : tensors) blocks += kernels::reduction_blocks(tensor.shape().count());
  const Buffer workspace(device, static_cast<std::size_t>(blocks + 1) * sizeof(double), Tag::Workspace);
  with_list("l2_norm", tensors, to_read, [&]<class T>(std::int64_t count, const kernels::ListedTensor<T>* list) {
    double* const on_device = workspace.as<double>();
    PALIMPSEST_RUN(tensors[0].device(), sum_of_squares<T>(count, list, on_device + 1, on_device));
    copy_bytes(&sum, Device::Cpu, on_device, device, sizeof sum);
  });
  return std::sqrt(sum);
}

void scale_all(std::span<const Tensor> tensors, double factor) {
  if (tensors.empty()) return;
  check_list("scale_all", tensors);
  with_list("scale_all", tensors, to_write, [&]<class T>(std::int64_t count, const kernels::ListedTensor<T>* list) {
    PALIMPSEST_RUN(tensors[0].device(), scale_all<T>(count, list, factor));
  });
}

void clamp_all(std::span<const Tensor> tensors, double limit) {
  if (tensors.empty()) return;
  check_list("clamp_all", tensors);
  with_list("clamp_all", tensors, to_write, [&]<class T>(std::int64_t count, const kernels::ListedTensor<T>* list) {
    PALIMPSEST_RUN(tensors[0].device(), clamp_all<T>(count, list, limit));
  });
}

}  // namespace palimpsest::ops
