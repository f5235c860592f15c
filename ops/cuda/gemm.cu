#include <cstdlib>
#include <limits>

#include <palimpsest/core/cuda/device.hpp>
#include <palimpsest/ops/cuda/cublas.hpp>
#include <palimpsest/ops/gemm.hpp>

namespace palimpsest::cuda {
namespace {

void check_blas(cublasStatus_t status, const char* command) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(concat_text(command, " failed: ", cublas_functions().status_string(status)));
}

/// Never destroyed: cuBLAS may be gone by then.
cublasHandle_t handle() {
  static const cublasHandle_t instance = [] {
    // Otherwise cuBLAS takes memory for itself beside what every product is given.
    setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0", 0);
    cublasHandle_t made = nullptr;
    check_blas(cublas_functions().create(&made), "cublasCreate");
    check_blas(cublas_functions().set_stream(made, stream()), "cublasSetStream");
    return made;
  }();
  return instance;
}

int to_int(std::int64_t extent) {
  if (extent <= std::numeric_limits<int>::max()) return static_cast<int>(extent);
  throw DeviceError(concat_text("a matrix extent of ", extent, " is more than cuBLAS takes"));
}

cublasStatus_t call(cublasHandle_t blas, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                    const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc) {
  const float alpha = 1;
  return cublas_functions().sgemm(blas, ta, tb, m, n, k, &alpha, a, lda, b, ldb, &beta, c, ldc);
}

cublasStatus_t call(cublasHandle_t blas, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                    const double* a, int lda, const double* b, int ldb, double beta, double* c, int ldc) {
  const double alpha = 1;
  return cublas_functions().dgemm(blas, ta, tb, m, n, k, &alpha, a, lda, b, ldb, &beta, c, ldc);
}

}  // namespace

template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c, std::int64_t c_step,
          bool accumulate, ops::Precision precision, void* workspace) {
  if (m == 0 || n == 0) return;
  const cublasHandle_t blas = handle();
  check_blas(cublas_functions().set_workspace(blas, workspace, gemm_workspace(Device::Cuda)), "cublasSetWorkspace");
  check_blas(cublas_functions().set_math_mode(
                 blas, precision == ops::Precision::Tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH),
             "cublasSetMathMode");
  // cuBLAS is column-major, where a row-major matrix is its own transpose: c' = op(b)' * op(a)'.
  const auto operation = [](const Matrix<T>& x) { return x.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const cublasStatus_t status =
      call(blas, operation(b), operation(a), to_int(n), to_int(m), to_int(k), b.data, to_int(b.step), a.data,
           to_int(a.step), accumulate ? T{1} : T{0}, c, to_int(c_step));
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(concat_text(sizeof(T) == 8 ? "cublasDgemm" : "cublasSgemm", " of ", m, " x ", k, " by ", k, " x ",
                                n, " failed: ", cublas_functions().status_string(status)));
}

template void gemm<float>(std::int64_t, std::int64_t, std::int64_t, Matrix<float>, Matrix<float>, float*, std::int64_t,
                          bool, ops::Precision, void*);
template void gemm<double>(std::int64_t, std::int64_t, std::int64_t, Matrix<double>, Matrix<double>, double*,
                           std::int64_t, bool, ops::Precision, void*);

}  // namespace palimpsest::cuda
