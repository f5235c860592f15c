#include <cuda_runtime.h>

#include "core/cuda_memory.hpp"

namespace palimpsest::cuda {
namespace {

/// Throws DeviceError naming the command that failed.
void check(cudaError_t status, const char* command) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears the error, so that the next call does not report it again
  throw DeviceError(concat_text(command, " failed: ", cudaGetErrorString(status)));
}
#define PALIMPSEST_CUDA(command) check((command), #command)

cudaError_t probe(int& devices) {
  devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) {
    cudaGetLastError();
    devices = 0;
  }
  return status;
}

class DeviceMemory : public MemorySource {
 public:
  void* take(std::size_t bytes, std::size_t& granted) override {
    constexpr std::size_t granule = std::size_t{2} << 20;
    granted = (bytes + granule - 1) / granule * granule;
    void* address = nullptr;
    const cudaError_t status = cudaMalloc(&address, granted);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    check(status, "cudaMalloc");
    return address;
  }
  void give(void* address, std::size_t) override { PALIMPSEST_CUDA(cudaFree(address)); }
  std::size_t granule() const override { return 0; }
  bool on_host() const override { return false; }
};

}  // namespace

int device_count() {
  int devices = 0;
  probe(devices);
  return devices;
}

std::string unavailable_reason() {
  int devices = 0;
  const cudaError_t status = probe(devices);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return devices == 0 ? "the driver reports no device" : "";
}

std::unique_ptr<MemorySource> make_memory() { return std::make_unique<DeviceMemory>(); }

void copy(void* to, const void* from, std::size_t bytes) {
  PALIMPSEST_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}

void zero(void* to, std::size_t bytes) {
  PALIMPSEST_CUDA(cudaMemset(to, 0, bytes));
  PALIMPSEST_CUDA(cudaDeviceSynchronize());
}

}  // namespace palimpsest::cuda
