#pragma once

// The CUDA runtime as kernel files (.cu) use it: one stream, checked calls, checked launches, and faults. Host code
// includes core/device.hpp instead.

#include <cuda_runtime.h>

#include <cstdint>

#include <palimpsest/core/cuda/geometry.hpp>
#include <palimpsest/core/error.hpp>

namespace palimpsest::cuda {

/// Throws DeviceError naming the command that failed, with the runtime's words for it.
void check(cudaError_t status, const char* command);
#define PALIMPSEST_CUDA(command) ::palimpsest::cuda::check((command), #command)

/// The stream that all kernels and copies go to, in order, on the device that was current when it was first asked for.
/// Memory freed on it may be used again at once: its next user comes later in the same stream.
cudaStream_t stream();

/// Something wrong in the data that only a kernel can see, where the CPU's kernel would have told its caller. The first
/// fault is kept on the device. From then on SGD and the update of running statistics do nothing, so that parameters
/// stay as they were, until the host reads anything from the device: that read throws what the fault stands for
/// (RangeError, ValueError) and clears it. Range tells of one coupling; all that left the range have set their marks
/// (RangeMark).
struct Fault {
  enum Kind : unsigned { None = 0, Range, OffGrid, Label };

  unsigned kind;
  const char* op;   // its name, in host memory: the device only passes it on
  int detail;       // Range, OffGrid: the grid's fraction bits, negative for float64; Label: the number of classes
  long long index;  // Label: where it is
  double value;     // Range: the magnitude; OffGrid: the element; Label: the label
};

/// The place in device memory where kernels report a fault and look for one.
Fault* fault();

#if defined(__CUDACC__) || defined(PALIMPSEST_CUDA_EMULATOR)
/// Reports a fault unless there is one already.
__device__ inline void raise(Fault* fault, Fault::Kind kind, const char* op, int detail, long long index,
                             double value) {
  if (atomicCAS(&fault->kind, static_cast<unsigned>(Fault::None), static_cast<unsigned>(kind)) != Fault::None) return;
  fault->op = op;
  fault->detail = detail;
  fault->index = index;
  fault->value = value;
}
#endif

struct Geometry {
  dim3 blocks;
  dim3 threads;
};

inline Geometry geometry(const gpu_geometry::Linear& launch) {
  return {dim3(launch.blocks), dim3(gpu_geometry::block_threads)};
}
inline Geometry geometry(const gpu_geometry::Rows& launch) {
  return {dim3(launch.blocks_x, launch.blocks_y), dim3(launch.threads_x, launch.threads_y)};
}
inline Geometry geometry(const gpu_geometry::ChannelReduction& launch) {
  return {dim3(launch.blocks_x, static_cast<unsigned>(launch.parts)), dim3(launch.threads_x, launch.threads_y)};
}

/// Throws DeviceError naming the kernel and its geometry if the launch failed. With PALIMPSEST_CUDA_SYNC=1 in the
/// environment it waits for the kernel first, so that an error inside it is reported here, at its origin.
void check_launch(cudaError_t status, const char* kernel, const Geometry& geometry);

/// Launches a kernel on stream(). Nothing is launched for an empty grid.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Geometry& geometry, Arguments&&... arguments) {
  if (geometry.blocks.x == 0 || geometry.blocks.y == 0 || geometry.blocks.z == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = geometry.blocks;
  config.blockDim = geometry.threads;
  config.stream = stream();
  check_launch(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name, geometry);
}
#define PALIMPSEST_LAUNCH(geometry, kernel, ...) ::palimpsest::cuda::launch(#kernel, kernel, geometry, __VA_ARGS__)

}  // namespace palimpsest::cuda
