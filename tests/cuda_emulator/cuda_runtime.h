#pragma once

// A stand-in for the CUDA runtime that runs kernels on the CPU, one thread after the other, so that every .cu file is
// run and checked where there is no GPU. It covers what the library uses and no more. It is stricter than a card: the
// host cannot touch device memory outside of copies, a barrier that not all threads of a block reach ends the process,
// the order in which threads run can be reversed to show what depends on it, and the work of streams can be put off
// until somebody waits for it to show who forgot to. It says nothing about speed, memory ordering or the compiler.

#define PALIMPSEST_CUDA_EMULATOR 1

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static thread_local

struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  constexpr dim3() = default;
  constexpr dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline thread_local dim3 threadIdx;
inline thread_local dim3 blockIdx;
inline thread_local dim3 blockDim;
inline thread_local dim3 gridDim;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorHostMemoryAlreadyRegistered = 712,
  cudaErrorHostMemoryNotRegistered = 713,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDefault = 4 };
struct EmulatedStream;
struct EmulatedEvent;
using cudaStream_t = EmulatedStream*;
using cudaEvent_t = EmulatedEvent*;
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDefault = 0;
inline constexpr unsigned cudaEventDisableTiming = 2;
inline constexpr unsigned cudaHostRegisterDefault = 0;

struct cudaDeviceProp {
  char name[256];
  int major;
  int minor;
  std::size_t totalGlobalMem;
};

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  void* attrs = nullptr;
  unsigned numAttrs = 0;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetDeviceCount(int* count);
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 12000;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void** address, std::size_t bytes);
cudaError_t cudaFree(void* address);
cudaError_t cudaMallocHost(void** address, std::size_t bytes);
cudaError_t cudaFreeHost(void* address);
cudaError_t cudaHostRegister(void* address, std::size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void* address);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to);

namespace cuda_emulator {

/// Order of the threads of a block, and of the blocks.
enum class Order { Ascending, Descending };
void set_order(Order order);

/// When the work of a stream is done: when it is given; or not before somebody waits for it, so that who forgets to
/// wait reads or overwrites too early. At once, unless the environment has PALIMPSEST_EMULATOR_TIMING=late.
enum class Timing { AtOnce, Late };
/// Does all work that waits first.
void set_timing(Timing timing);

/// Gives work to a stream; at once if that is null.
void submit(cudaStream_t stream, std::function<void()> work);
/// Does all work that waits in any stream.
void finish();

/// Bytes of the card; cudaMalloc fails beyond it.
void set_memory(std::size_t bytes);

/// Kernels launched since the process began.
std::uint64_t launches();

/// While it lives, device memory can be read and written.
class Access {
 public:
  Access();
  ~Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
};

cudaError_t run(const cudaLaunchConfig_t& config, const std::function<void()>& kernel);

/// __syncthreads() of the thread that runs.
void barrier();

}  // namespace cuda_emulator

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 32764, "more parameters than a kernel takes");
  const std::tuple<Parameters...> held(static_cast<Parameters>(arguments)...);  // the launch may be later
  return cuda_emulator::run(*config, [kernel, held] { std::apply(kernel, held); });
}

inline void __syncthreads() { cuda_emulator::barrier(); }

inline unsigned atomicCAS(unsigned* address, unsigned compare, unsigned value) {
  const unsigned old = *address;
  if (old == compare) *address = value;
  return old;
}

template <class Unsigned>
inline Unsigned atomicMax(Unsigned* address, Unsigned value) {
  const Unsigned old = *address;
  if (value > old) *address = value;
  return old;
}

inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
  const unsigned long long old = *address;
  *address = old + value;
  return old;
}

inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
