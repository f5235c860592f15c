#include <palimpsest/ops/gemm.hpp>

#include <algorithm>

#include <palimpsest/core/index.hpp>
#include <palimpsest/core/parallel.hpp>

#if defined(PALIMPSEST_HAS_OPENBLAS)
#include <cblas.h>
#endif

namespace palimpsest {
namespace {

template <class T>
void clear(Index m, Index n, T* c, Index c_step) {
  for (Index i = 0; i < m; ++i) std::fill_n(c + i * c_step, n, T{0});
}

#if defined(PALIMPSEST_HAS_OPENBLAS)

void call(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, const float* a, int lda, const float* b, int ldb,
          float beta, float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1.0F, a, lda, b, ldb, beta, c, ldc);
}

void call(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, const double* a, int lda, const double* b,
          int ldb, double beta, double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, 1.0, a, lda, b, ldb, beta, c, ldc);
}

template <class T>
void multiply(Index m, Index n, Index k, Matrix<T> a, Matrix<T> b, T* c, Index c_step, bool accumulate) {
  // Threads are ours; OpenBLAS's own would split by their number and so change the bits.
  static const bool single_threaded = (openblas_set_num_threads(1), true);
  static_cast<void>(single_threaded);
  const auto transpose = [](const Matrix<T>& x) { return x.transposed ? CblasTrans : CblasNoTrans; };
  call(transpose(a), transpose(b), static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), a.data,
       static_cast<int>(a.step), b.data, static_cast<int>(b.step), accumulate ? T{1} : T{0}, c,
       static_cast<int>(c_step));
}

#else

constexpr Index block = 64;

/// A block of op(b) from row `row` and column `col`, row-major.
template <class T>
void pack(Matrix<T> b, Index row, Index rows, Index col, Index cols, T* to) {
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) {
      to[i * block + j] = b.transposed ? b.data[(col + j) * b.step + row + i] : b.data[(row + i) * b.step + col + j];
    }
  }
}

template <class T>
void multiply(Index m, Index n, Index k, Matrix<T> a, Matrix<T> b, T* c, Index c_step, bool accumulate) {
  if (!accumulate) clear(m, n, c, c_step);
  T packed[block * block];
  for (Index col = 0; col < n; col += block) {
    const Index cols = std::min(block, n - col);
    for (Index inner = 0; inner < k; inner += block) {
      const Index depth = std::min(block, k - inner);
      pack(b, inner, depth, col, cols, packed);
      for (Index i = 0; i < m; ++i) {
        T* to = c + i * c_step + col;
        for (Index p = 0; p < depth; ++p) {
          const T scale = a.transposed ? a.data[(inner + p) * a.step + i] : a.data[i * a.step + inner + p];
          const T* from = packed + p * block;
          for (Index j = 0; j < cols; ++j) to[j] += scale * from[j];
        }
      }
    }
  }
}

#endif

}  // namespace

template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c, std::int64_t c_step,
          bool accumulate) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (!accumulate) clear(m, n, c, c_step);
    return;
  }
  const Index rows = std::max<Index>(16, (m + 15) / 16);
  parallel_for((m + rows - 1) / rows, [&](Index task) {
    const Index row = task * rows;
    Matrix<T> mine = a;
    mine.data += a.transposed ? row : row * a.step;
    multiply(std::min(rows, m - row), n, k, mine, b, c + row * c_step, c_step, accumulate);
  });
}

template void gemm<float>(Index, Index, Index, Matrix<float>, Matrix<float>, float*, Index, bool);
template void gemm<double>(Index, Index, Index, Matrix<double>, Matrix<double>, double*, Index, bool);

}  // namespace palimpsest
