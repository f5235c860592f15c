#include <palimpsest/ops/cpu/tensor_list.hpp>
#include <palimpsest/ops/kernels/tensor_list.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {

template <class T>
void sum_of_squares(std::int64_t tensors, const ListedTensor<T>* list, double*, double* sum) {
  double sums[max_list_tasks] = {};
  parallel_over_list(tensors, list,
                     [&](const ListedTensor<T>& tensor, std::int64_t begin, std::int64_t end, std::int64_t task) {
                       const T* const data = tensor.data;
                       sums[task] += sum_of_terms(begin, end, [&](std::int64_t i) {
                         const double value = static_cast<double>(data[i]);
                         return value * value;
                       });
                     });
  *sum = 0;
  for (const double part : sums) *sum += part;
}

template <class T>
void scale_all(std::int64_t tensors, const ListedTensor<T>* list, double factor) {
  const T by = static_cast<T>(factor);
  parallel_over_list(tensors, list,
                     [&](const ListedTensor<T>& tensor, std::int64_t begin, std::int64_t end, std::int64_t) {
                       T* const data = tensor.data;
                       for (std::int64_t i = begin; i < end; ++i) data[i] *= by;
                     });
}

template <class T>
void clamp_all(std::int64_t tensors, const ListedTensor<T>* list, double limit) {
  const T most = static_cast<T>(limit);
  parallel_over_list(tensors, list,
                     [&](const ListedTensor<T>& tensor, std::int64_t begin, std::int64_t end, std::int64_t) {
                       T* const data = tensor.data;
                       for (std::int64_t i = begin; i < end; ++i) {
                         const T value = data[i] > most ? most : data[i];
                         data[i] = value < -most ? -most : value;
                       }
                     });
}

PALIMPSEST_TENSOR_LIST_KERNELS(float)
PALIMPSEST_TENSOR_LIST_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
