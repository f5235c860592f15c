#pragma once

#include <cstddef>
#include <cstdint>

#include <palimpsest/core/types.hpp>
#include <palimpsest/ops/product.hpp>

namespace palimpsest {

/// One operand of a matrix product: row-major, `step` elements from one row to the next, read as its transpose where
/// `transposed`.
template <class T>
struct Matrix {
  const T* data;
  std::int64_t step;
  bool transposed = false;
};

/// c = op(a) * op(b), added to c where `accumulate`. op(a): m x k, op(b): k x n, c: m x n, row-major with `c_step`
/// elements from one row to the next. T = float and double. Any extent may be 0. By OpenBLAS where the library is built
/// with it, else by a plain loop. Rows are spread over the threads in blocks that the shape fixes, so that the result
/// is the same bits for any number of threads. Throws nothing.
template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c, std::int64_t c_step,
          bool accumulate);

/// Bytes of workspace that a matrix product needs on a device: cuBLAS is given its own, so that its choice of algorithm
/// is the same every time.
constexpr std::size_t gemm_workspace(Device device) { return device == Device::Cuda ? std::size_t{8} << 20 : 0; }

namespace cuda {
/// The same product on CUDA, by cuBLAS; pointers are to device memory. workspace: gemm_workspace(Device::Cuda) bytes.
/// The same bits every time on the same card. Throws DeviceError.
template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c, std::int64_t c_step,
          bool accumulate, ops::Precision precision, void* workspace);
}  // namespace cuda

}  // namespace palimpsest
