#pragma once

// The CUDA runtime as core/device.cpp calls it, without the toolkit's headers. Compiled only where CUDA is enabled.

#include <cstdint>
#include <memory>
#include <string>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/device.hpp>

namespace palimpsest::cuda {

/// Devices with a working driver; 0 if there is no driver.
int device_count();
/// The runtime's own words for why device_count() is 0; empty if it is not.
std::string unavailable_reason();
/// "NVIDIA H200, compute capability 9.0, 139.8 GiB".
std::string device_name();
/// cudaMalloc and cudaFree on the current device.
std::unique_ptr<MemorySource> make_memory();
/// Bytes of the device that nobody has taken, and all it has.
DeviceMemory device_memory();
/// Copies in stream order. Returns when the host may use its side; waits for nothing within the device.
void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);
/// In stream order.
void fill_bytes(void* to, unsigned char value, std::size_t bytes);
/// Waits for everything, and throws what went wrong in it.
void synchronize();
std::unique_ptr<Upload> make_upload();
std::unique_ptr<CopyQueue> make_copy_queue();
/// cudaMallocHost and cudaFreeHost.
std::unique_ptr<MemorySource> make_pinned_memory();
std::unique_ptr<DeviceTimer> make_timer();
void pin(void* address, std::size_t bytes);
void unpin(void* address) noexcept;
/// Gives a mark a place in device memory, which it may share with others where there are thousands: then what one tells
/// is told of all.
unsigned* add_mark(RangeMark& mark);
void remove_mark(RangeMark& mark) noexcept;

}  // namespace palimpsest::cuda
