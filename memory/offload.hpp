#pragma once

#include <cstddef>
#include <string>

#include <palimpsest/core/types.hpp>

namespace palimpsest::memory {

/// Where values of the CPU go under fetch(): a file without a name in this folder, made at once, which is gone with the
/// process however that ends. It grows to what one step needs; its places are used again. Values that are out already
/// stay where they are. Throws OffloadError, naming the folder and the reason, if no file can be made there or it
/// cannot be written to; nothing has changed then. Until this is called, the system's folder for temporary files.
void set_offload_directory(const std::string& directory);
/// The folder that is in force.
std::string offload_directory();

/// What is outside of a device's memory, in bytes.
struct OffloadStats {
  std::size_t held = 0;      ///< of values that are out now
  std::size_t peak = 0;      ///< highest `held` so far
  std::size_t reserved = 0;  ///< of the file, or of pinned host memory, free places included
};

/// On a meta device: of the device that it stands for.
OffloadStats offload_stats(Device device);

}  // namespace palimpsest::memory
