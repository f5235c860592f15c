// All parameters of a model in one launch: the table of tensors travels as a kernel parameter.

#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/sgd.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

constexpr Index elements_per_block = 8192;

/// As many tensors as fit the 32,764 bytes of a kernel's parameters. More take several launches.
constexpr int max_tensors = 576;

template <class T>
struct Table {
  int count = 0;
  T factors[2];                      // learning rate, momentum
  int first_block[max_tensors + 1];  // of each tensor
  SgdTensor<T> tensors[max_tensors];

  /// The tensor that a block works on.
  __device__ int holding(int block) const {
    int low = 0;
    int high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_block[middle] <= block ? low : high) = middle;
    }
    return low;
  }
};

template <class T>
__global__ void sgd_kernel(const __grid_constant__ Table<T> table, bool nesterov, const Fault* fault) {
  if (fault->kind != Fault::None) return;
  const int block = static_cast<int>(blockIdx.x);
  const int index = table.holding(block);
  const SgdTensor<T>& tensor = table.tensors[index];
  const T rate = table.factors[0];
  const T momentum = table.factors[1];
  const T decay = static_cast<T>(tensor.weight_decay);
  const Index begin = (block - table.first_block[index]) * elements_per_block;
  const Index end = smaller(begin + elements_per_block, tensor.count);
  for (Index i = begin + threadIdx.x; i < end; i += blockDim.x) {
    const T parameter = tensor.parameter[i];
    const T decayed = tensor.gradient[i] + decay * parameter;
    T step = decayed;
    if (tensor.velocity != nullptr) {
      const T velocity = tensor.first_step ? decayed : momentum * tensor.velocity[i] + decayed;
      tensor.velocity[i] = velocity;
      step = nesterov ? decayed + momentum * velocity : velocity;
    }
    tensor.parameter[i] = parameter - rate * step;
  }
}

}  // namespace

template <class T>
void sgd_step(std::int64_t tensors, const SgdTensor<T>* list, const SgdOptions& spec) {
  for (Index next = 0; next < tensors;) {
    Table<T> table;
    table.factors[0] = static_cast<T>(spec.learning_rate);
    table.factors[1] = static_cast<T>(spec.momentum);
    int blocks = 0;
    for (; next < tensors && table.count < max_tensors; ++next) {
      if (list[next].count == 0) continue;
      table.tensors[table.count] = list[next];
      table.first_block[table.count++] = blocks;
      blocks += static_cast<int>(ceil_div(list[next].count, elements_per_block));
    }
    const Geometry launch = {dim3(static_cast<unsigned>(blocks)), dim3(gpu_geometry::block_threads)};
    PALIMPSEST_LAUNCH(launch, sgd_kernel<T>, table, spec.nesterov, fault());
  }
}

template void sgd_step(std::int64_t, const SgdTensor<float>*, const SgdOptions&);
template void sgd_step(std::int64_t, const SgdTensor<double>*, const SgdOptions&);

}  // namespace palimpsest::kernels::gpu
