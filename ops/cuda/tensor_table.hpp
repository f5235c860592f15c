#pragma once

// Many tensors in one launch: their table travels as a kernel parameter, and every block works on a piece of one
// tensor.

#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/tensor_list.hpp>

namespace palimpsest::cuda {

/// As many tensors as fit the 32,764 bytes of a kernel's parameters. More take several launches.
inline constexpr int max_tensors = 576;

/// Listed: a struct of pointers and a member `count`, 48 bytes at most.
template <class Listed>
struct TensorTable {
  int count = 0;
  int first_block[max_tensors + 1];  // of each tensor
  Listed tensors[max_tensors];

  /// The index of the tensor that a block works on.
  __device__ int holding(int block) const {
    int low = 0;
    int high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_block[middle] <= block ? low : high) = middle;
    }
    return low;
  }

  /// Calls body(tensor, i) for the elements of this thread: those of its block's piece, a block's width apart.
  template <class Body>
  __device__ void for_each(const Body& body) const {
    const int block = static_cast<int>(blockIdx.x);
    const int index = holding(block);
    const Listed& tensor = tensors[index];
    const Index begin = (block - first_block[index]) * kernels::listed_block_elements;
    const Index end = smaller(begin + kernels::listed_block_elements, tensor.count);
    for (Index i = begin + threadIdx.x; i < end; i += blockDim.x) body(tensor, i);
  }
};

/// Calls launch(table, geometry) for tables of at most max_tensors of the list.
template <class Listed, class Launch>
void for_each_table(Index tensors, const Listed* list, const Launch& launch) {
  for (Index next = 0; next < tensors;) {
    TensorTable<Listed> table;
    Index blocks = 0;
    for (; next < tensors && table.count < max_tensors; ++next) {
      if (list[next].count == 0) continue;
      table.tensors[table.count] = list[next];
      table.first_block[table.count++] = static_cast<int>(blocks);
      blocks += kernels::reduction_blocks(list[next].count);
    }
    launch(table, Geometry{dim3(static_cast<unsigned>(blocks)), dim3(gpu_geometry::block_threads)});
  }
}

}  // namespace palimpsest::cuda
