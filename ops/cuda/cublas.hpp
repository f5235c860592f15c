#pragma once

// cuBLAS, opened when the first product asks for it: linked, it would cost every start of every program 77 ms and 220
// MB, and programs would not start where it is missing.

#include <cublas_v2.h>

namespace palimpsest::cuda {

/// The functions of cuBLAS that the library calls, under their own names without the prefix.
struct CublasFunctions {
  decltype(&::cublasCreate) create;
  decltype(&::cublasSetStream) set_stream;
  decltype(&::cublasSetWorkspace) set_workspace;
  decltype(&::cublasSetMathMode) set_math_mode;
  decltype(&::cublasSgemm) sgemm;
  decltype(&::cublasDgemm) dgemm;
  decltype(&::cublasGetStatusString) status_string;
};

/// Throws DeviceError if the library or one of these functions is missing, naming it.
const CublasFunctions& cublas_functions();

}  // namespace palimpsest::cuda
