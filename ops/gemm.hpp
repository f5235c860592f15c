#pragma once

#include <cstdint>

namespace palimpsest::kernels {

/// How an operand of a product is stored: as it is, or as its transpose.
enum class Transpose : bool { No, Yes };

/// c = op(a) * op(b), or c += where `accumulate`, all row-major and dense: op(a) is m x k, op(b) k x n, c m x n. By
/// OpenBLAS where the build has it, otherwise by a plain blocked loop. T = float, double. Rows of c are split into
/// blocks by shape alone, so the result is the same bits for any number of threads.
template <class T>
void gemm(Transpose a_transposed, Transpose b_transposed, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
          const T* b, T* c, bool accumulate);

}  // namespace palimpsest::kernels
