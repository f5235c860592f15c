#include "core/cuda_runtime.hpp"

#include <cstring>

#if defined(PALIMPSEST_HAS_CUDA)
#include "core/cuda_memory.hpp"
#endif

namespace palimpsest {

#if defined(PALIMPSEST_HAS_CUDA)

int cuda_device_count() { return cuda::device_count(); }
std::string cuda_unavailable_reason() { return cuda::unavailable_reason(); }

std::unique_ptr<MemorySource> make_cuda_memory() {
  if (cuda_device_count() == 0) throw DeviceError(concat_text("no CUDA device: ", cuda_unavailable_reason()));
  return cuda::make_memory();
}

#else

int cuda_device_count() { return 0; }
std::string cuda_unavailable_reason() { return "this build has no CUDA (configure with -Dcuda=enabled)"; }

std::unique_ptr<MemorySource> make_cuda_memory() {
  throw DeviceError(concat_text("no CUDA device: ", cuda_unavailable_reason()));
}

#endif

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  if (to_device == Device::Meta || from_device == Device::Meta || bytes == 0) return;
  if (to_device == Device::Cpu && from_device == Device::Cpu) {
    std::memcpy(to, from, bytes);
    return;
  }
#if defined(PALIMPSEST_HAS_CUDA)
  cuda::copy(to, from, bytes);
#else
  (void)to, (void)from;
  throw DeviceError(cuda_unavailable_reason());
#endif
}

void zero_bytes(void* to, Device device, std::size_t bytes) {
  if (device == Device::Meta || bytes == 0) return;
  if (device == Device::Cpu) {
    std::memset(to, 0, bytes);
    return;
  }
#if defined(PALIMPSEST_HAS_CUDA)
  cuda::zero(to, bytes);
#else
  throw DeviceError(cuda_unavailable_reason());
#endif
}

}  // namespace palimpsest
