#pragma once

// The CUDA runtime as the host code needs it, without the toolkit's headers. Compiled only where CUDA is enabled.

#include <memory>
#include <string>

#include "core/memory.hpp"

namespace palimpsest::cuda {

/// Devices with a working driver; 0 if there is no driver.
int device_count();
/// The runtime's own words for why device_count() is 0; empty if it is not.
std::string unavailable_reason();
/// cudaMalloc and cudaFree on the current device.
std::unique_ptr<MemorySource> make_memory();
/// Copies in either direction, or within the device, and waits. Throws DeviceError.
void copy(void* to, const void* from, std::size_t bytes);
/// Throws DeviceError.
void zero(void* to, std::size_t bytes);

}  // namespace palimpsest::cuda
