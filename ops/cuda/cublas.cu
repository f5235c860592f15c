#include <palimpsest/ops/cuda/cublas.hpp>

#include <dlfcn.h>

#include <string>

#include <palimpsest/core/error.hpp>

namespace palimpsest::cuda {
namespace {

#define PALIMPSEST_TEXT_OF(name) #name
#define PALIMPSEST_TEXT(name) PALIMPSEST_TEXT_OF(name)
#define PALIMPSEST_MAJOR_OF(major) "libcublas.so." #major
#define PALIMPSEST_LIBRARY(major) PALIMPSEST_MAJOR_OF(major)

/// By the loader's own rules first, then where the toolkit is that this was built with.
void* open_library() {
  const std::string name = PALIMPSEST_LIBRARY(CUBLAS_VER_MAJOR);
  const std::string root = PALIMPSEST_CUDA_ROOT;
  std::string reasons;
  for (const std::string& path : {name, root + "/lib64/" + name, root + "/lib/" + name, std::string("libcublas.so")}) {
    if (void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    reasons += concat_text(reasons.empty() ? "" : "; ", dlerror());
  }
  throw DeviceError("cuBLAS cannot be opened (LD_LIBRARY_PATH may name its folder): " + reasons);
}

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw DeviceError(concat_text("cuBLAS has no ", name));
}

CublasFunctions load() {
  void* const library = open_library();
  CublasFunctions functions = {};
  // The header renames functions (cublasSgemm is cublasSgemm_v2): the text of the renamed one is what is exported.
#define PALIMPSEST_FIND(member, function) find(library, PALIMPSEST_TEXT(function), functions.member)
  PALIMPSEST_FIND(create, cublasCreate);
  PALIMPSEST_FIND(set_stream, cublasSetStream);
  PALIMPSEST_FIND(set_workspace, cublasSetWorkspace);
  PALIMPSEST_FIND(set_math_mode, cublasSetMathMode);
  PALIMPSEST_FIND(sgemm, cublasSgemm);
  PALIMPSEST_FIND(dgemm, cublasDgemm);
  PALIMPSEST_FIND(status_string, cublasGetStatusString);
  return functions;
}

}  // namespace

const CublasFunctions& cublas_functions() {
  static const CublasFunctions functions = load();
  return functions;
}

}  // namespace palimpsest::cuda
