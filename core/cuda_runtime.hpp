#pragma once

#include <memory>
#include <string>

#include "core/memory.hpp"

namespace palimpsest {

/// What this build was made with.
namespace build {
#if defined(PALIMPSEST_HAS_CUDA)
inline constexpr bool has_cuda = true;
#else
inline constexpr bool has_cuda = false;
#endif
}  // namespace build

/// Number of CUDA devices that can be used: 0 without CUDA in the build, without a driver or without a device.
int cuda_device_count();

/// Why there is none, in one line; empty if there is one.
std::string cuda_unavailable_reason();

/// Memory of the current CUDA device. Throws DeviceError with the reason if there is none.
std::unique_ptr<MemorySource> make_cuda_memory();

/// Copies bytes between devices, or within one; returns when they have arrived. A copy from or to Meta does nothing.
/// Throws DeviceError.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);

/// Sets bytes to zero. On Meta does nothing. Throws DeviceError.
void zero_bytes(void* to, Device device, std::size_t bytes);

}  // namespace palimpsest
