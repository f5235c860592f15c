#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include <palimpsest/core/types.hpp>

namespace palimpsest::memory {

/// True for a text that asks for a budget: "budget=2GiB". The policy for it is planned (memory/planner/planner.hpp).
bool is_budget(std::string_view text);

/// The bytes of "budget=2GiB", of which a share ("budget=40%") is one of this device's memory. Nullopt if the text
/// asks for no budget. Throws ValueError as parse_bytes, DeviceError for a share of a CUDA device that is not there.
std::optional<std::size_t> parse_budget(std::string_view text, Device device);

/// Reads "2GiB", "1500 MB", "750MiB", "123456" (bytes) or "40%", which is of `device_bytes`. Throws ValueError.
std::size_t parse_bytes(std::string_view text, std::size_t device_bytes);
/// The same with a share of this device's memory. Throws DeviceError for a share of a device that is not there.
std::size_t parse_bytes(std::string_view text, Device device);

/// Bytes of the memory of the card or, for the CPU, of the machine; of a meta device: of the device that it stands for.
/// Throws DeviceError if the device is not there.
std::size_t device_bytes(Device device);

}  // namespace palimpsest::memory
