// All gradients of a model in one launch, and one more where they end in one number.

#include <palimpsest/ops/cuda/reduce.hpp>
#include <palimpsest/ops/cuda/tensor_table.hpp>
#include <palimpsest/ops/kernels/tensor_list.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

template <class T>
__global__ void squares_kernel(const __grid_constant__ TensorTable<ListedTensor<T>> table, double* partial) {
  double sum = 0;
  table.for_each([&](const ListedTensor<T>& tensor, Index i) {
    const double value = static_cast<double>(tensor.data[i]);
    sum += value * value;
  });
  const double total = add_over_block(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

template <class T>
__global__ void scale_kernel(const __grid_constant__ TensorTable<ListedTensor<T>> table, T factor) {
  table.for_each([&](const ListedTensor<T>& tensor, Index i) { tensor.data[i] *= factor; });
}

template <class T>
__global__ void clamp_kernel(const __grid_constant__ TensorTable<ListedTensor<T>> table, T limit) {
  table.for_each([&](const ListedTensor<T>& tensor, Index i) {
    const T value = tensor.data[i] > limit ? limit : tensor.data[i];
    tensor.data[i] = value < -limit ? -limit : value;
  });
}

}  // namespace

template <class T>
void sum_of_squares(std::int64_t tensors, const ListedTensor<T>* list, double* partial, double* sum) {
  Index parts = 0;
  for_each_table(tensors, list, [&](const TensorTable<ListedTensor<T>>& table, const Geometry& launch) {
    PALIMPSEST_LAUNCH(launch, squares_kernel<T>, table, partial + parts);
    parts += launch.blocks.x;
  });
  add_partial_sums(parts, partial, 1.0, sum);
}

template <class T>
void scale_all(std::int64_t tensors, const ListedTensor<T>* list, double factor) {
  for_each_table(tensors, list, [&](const TensorTable<ListedTensor<T>>& table, const Geometry& launch) {
    PALIMPSEST_LAUNCH(launch, scale_kernel<T>, table, static_cast<T>(factor));
  });
}

template <class T>
void clamp_all(std::int64_t tensors, const ListedTensor<T>* list, double limit) {
  for_each_table(tensors, list, [&](const TensorTable<ListedTensor<T>>& table, const Geometry& launch) {
    PALIMPSEST_LAUNCH(launch, clamp_kernel<T>, table, static_cast<T>(limit));
  });
}

PALIMPSEST_TENSOR_LIST_KERNELS(float)
PALIMPSEST_TENSOR_LIST_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
