#pragma once

#include <palimpsest/ops/gemm.hpp>

namespace palimpsest::cuda {

/// The workspace of a kernel that multiplies matrices, cut up: first what the products need, then the kernel's own.
template <class T>
struct Workspace {
  T* products;
  T* rest;

  explicit Workspace(T* workspace) : products(workspace), rest(workspace + gemm_workspace(Device::Cuda) / sizeof(T)) {}
};

}  // namespace palimpsest::cuda
