#include "ops/gemm.hpp"

#include <algorithm>

#include "core/parallel.hpp"

#if defined(PALIMPSEST_HAS_OPENBLAS)
#include <cblas.h>
#endif

namespace palimpsest::kernels {
namespace {

constexpr std::int64_t block_rows = 64;

/// A matrix as the product reads it: element (row, column) of op(a).
template <class T>
struct Operand {
  const T* data;
  std::int64_t row_stride;
  std::int64_t column_stride;
};

template <class T>
Operand<T> operand(const T* data, Transpose transposed, std::int64_t rows, std::int64_t columns) {
  return transposed == Transpose::Yes ? Operand<T>{data, 1, rows} : Operand<T>{data, columns, 1};
}

#if defined(PALIMPSEST_HAS_OPENBLAS)

void call_blas(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, const float* a, int lda, const float* b,
               int ldb, float beta, float* c) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1, a, lda, b, ldb, beta, c, n);
}

void call_blas(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, const double* a, int lda, const double* b,
               int ldb, double beta, double* c) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, 1, a, lda, b, ldb, beta, c, n);
}

template <class T>
void multiply_rows(const Operand<T>& a, const Operand<T>& b, std::int64_t m, std::int64_t n, std::int64_t k, T* c,
                   bool accumulate) {
  // Our own threads have split the work already.
  static const bool single_threaded = (openblas_set_num_threads(1), true);
  (void)single_threaded;
  const bool ta = a.column_stride != 1;
  const bool tb = b.column_stride != 1;
  call_blas(ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, static_cast<int>(m), static_cast<int>(n),
            static_cast<int>(k), a.data, static_cast<int>(ta ? a.column_stride : a.row_stride), b.data,
            static_cast<int>(tb ? b.column_stride : b.row_stride), accumulate ? T{1} : T{0}, c);
}

#else

template <class T>
void multiply_rows(const Operand<T>& a, const Operand<T>& b, std::int64_t m, std::int64_t n, std::int64_t k, T* c,
                   bool accumulate) {
  if (!accumulate) std::fill(c, c + m * n, T{0});
  constexpr std::int64_t depth = 128;  // rows of b that stay in cache while all rows of the block pass over them
  for (std::int64_t first = 0; first < k; first += depth) {
    const std::int64_t last = std::min(k, first + depth);
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t p = first; p < last; ++p) {
        const T factor = a.data[i * a.row_stride + p * a.column_stride];
        const T* const row = b.data + p * b.row_stride;
        for (std::int64_t j = 0; j < n; ++j) c[i * n + j] += factor * row[j * b.column_stride];
      }
    }
  }
}

#endif

}  // namespace

template <class T>
void gemm(Transpose a_transposed, Transpose b_transposed, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
          const T* b, T* c, bool accumulate) {
  const Operand<T> left = operand(a, a_transposed, m, k);
  const Operand<T> right = operand(b, b_transposed, k, n);
  parallel_for((m + block_rows - 1) / block_rows, [&](std::int64_t block) {
    const std::int64_t first = block * block_rows;
    const Operand<T> rows{left.data + first * left.row_stride, left.row_stride, left.column_stride};
    multiply_rows(rows, right, std::min(block_rows, m - first), n, k, c + first * n, accumulate);
  });
}

template void gemm(Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const float*, const float*, float*,
                   bool);
template void gemm(Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const double*, const double*,
                   double*, bool);

}  // namespace palimpsest::kernels
