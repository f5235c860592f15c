#pragma once

// Kernels over all of a model's tensors at once: the norm of its gradients, and what clipping does to them. T = float
// and double.

#include <cstdint>

#include <palimpsest/core/index.hpp>
#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// One tensor of a list. None overlaps another.
template <class T>
struct ListedTensor {
  std::int64_t count;
  T* data;
};

/// Elements that a CUDA block takes of a tensor in a list.
inline constexpr std::int64_t listed_block_elements = 8192;

/// Blocks, and partial sums, of a reduction over a tensor of so many elements on CUDA.
constexpr std::int64_t reduction_blocks(std::int64_t count) { return ceil_div(count, listed_block_elements); }

PALIMPSEST_KERNELS(

    /// *sum = the sum of the squares of all elements, computed in double: infinite or no number if one of them is, or,
    /// in float64 alone, if a square overflows. The same bits for any number of threads. `partial`: room for the
    /// reduction_blocks() of all tensors on CUDA, null on the CPU; `sum` is on the device.
    template <class T>
    void sum_of_squares(std::int64_t tensors, const ListedTensor<T>* list, double* partial, double* sum);

    /// Multiplies all elements by `factor`.
    template <class T> void scale_all(std::int64_t tensors, const ListedTensor<T>* list, double factor);

    /// Puts what is beyond [-limit, limit] at the nearer end; NaN stays NaN. limit >= 0.
    template <class T> void clamp_all(std::int64_t tensors, const ListedTensor<T>* list, double limit);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_TENSOR_LIST_KERNELS(T)                                               \
  template void sum_of_squares(std::int64_t, const ListedTensor<T>*, double*, double*); \
  template void scale_all(std::int64_t, const ListedTensor<T>*, double);                \
  template void clamp_all(std::int64_t, const ListedTensor<T>*, double);

}  // namespace palimpsest::kernels
