// Matrix products over the emulator's memory, column-major and by the plainest loop, as cuBLAS documents them.

#include <palimpsest/ops/cuda/cublas.hpp>

struct EmulatedBlas {
  char* workspace = nullptr;
  std::size_t workspace_bytes = 0;
  cudaStream_t stream = nullptr;
};

namespace {

template <class T>
void multiply_now(const EmulatedBlas& blas, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, T alpha,
                  const T* a, int lda, const T* b, int ldb, T beta, T* c, int ldc) {
  const cuda_emulator::Access access;
  for (std::size_t i = 0; i < blas.workspace_bytes; i += 4096) blas.workspace[i] = -1;  // it is ours to overwrite
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = 0; i < m; ++i) {
      T sum = 0;
      for (std::int64_t p = 0; p < k; ++p) {
        sum += (ta == CUBLAS_OP_N ? a[p * lda + i] : a[i * lda + p]) *
               (tb == CUBLAS_OP_N ? b[j * ldb + p] : b[p * ldb + j]);
      }
      T& out = c[j * ldc + i];
      out = alpha * sum + (beta == T{0} ? T{0} : beta * out);
    }
  }
}

template <class T>
cublasStatus_t multiply(const EmulatedBlas& blas, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                        T alpha, const T* a, int lda, const T* b, int ldb, T beta, T* c, int ldc) {
  const auto smallest = [](int rows) { return rows > 1 ? rows : 1; };
  if (m < 0 || n < 0 || k < 0 || lda < smallest(ta == CUBLAS_OP_N ? m : k) ||
      ldb < smallest(tb == CUBLAS_OP_N ? k : n) || ldc < smallest(m)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  cuda_emulator::submit(blas.stream, [=] { multiply_now(blas, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc); });
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = new EmulatedBlas;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
  handle->workspace = static_cast<char*>(workspace);
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta,
                           float* c, int ldc) {
  return multiply(*handle, ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
}

cublasStatus_t cublasDgemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const double* alpha, const double* a, int lda, const double* b, int ldb, const double* beta,
                           double* c, int ldc) {
  return multiply(*handle, ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
}

const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "an unsupported value or parameter was passed to the function";
}

namespace palimpsest::cuda {

const CublasFunctions& cublas_functions() {
  static const CublasFunctions functions = {cublasCreate, cublasSetStream, cublasSetWorkspace,   cublasSetMathMode,
                                            cublasSgemm,  cublasDgemm,     cublasGetStatusString};
  return functions;
}

}  // namespace palimpsest::cuda
