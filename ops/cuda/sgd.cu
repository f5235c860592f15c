// All parameters of a model in one launch.

#include <palimpsest/ops/cuda/tensor_table.hpp>
#include <palimpsest/ops/kernels/sgd.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

template <class T>
struct Factors {
  T rate;
  T momentum;
  bool nesterov;
};

template <class T>
__global__ void sgd_kernel(const __grid_constant__ TensorTable<SgdTensor<T>> table, Factors<T> by, const Fault* fault) {
  if (fault->kind != Fault::None) return;
  table.for_each([&](const SgdTensor<T>& tensor, Index i) {
    const T decay = static_cast<T>(tensor.weight_decay);
    const T parameter = tensor.parameter[i];
    const T decayed = tensor.gradient[i] + decay * parameter;
    T step = decayed;
    if (tensor.velocity != nullptr) {
      const T velocity = tensor.first_step ? decayed : by.momentum * tensor.velocity[i] + decayed;
      tensor.velocity[i] = velocity;
      step = by.nesterov ? decayed + by.momentum * velocity : velocity;
    }
    tensor.parameter[i] = parameter - by.rate * step;
  });
}

}  // namespace

template <class T>
void sgd_step(std::int64_t tensors, const SgdTensor<T>* list, const SgdOptions& spec) {
  const Factors<T> by = {static_cast<T>(spec.learning_rate), static_cast<T>(spec.momentum), spec.nesterov};
  for_each_table(tensors, list, [&](const TensorTable<SgdTensor<T>>& table, const Geometry& launch) {
    PALIMPSEST_LAUNCH(launch, sgd_kernel<T>, table, by, fault());
  });
}

template void sgd_step(std::int64_t, const SgdTensor<float>*, const SgdOptions&);
template void sgd_step(std::int64_t, const SgdTensor<double>*, const SgdOptions&);

}  // namespace palimpsest::kernels::gpu
