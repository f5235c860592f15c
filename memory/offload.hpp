#pragma once

#include <cstddef>
#include <string>

#include <palimpsest/core/types.hpp>

namespace palimpsest::memory {

/// The options of offload(): the values that leave the device's memory, and the folder they go to from the CPU.
struct OffloadOptions {
  std::size_t at_least = std::size_t{64} << 10;  ///< bytes; smaller values stay
  /// The CPU's file is there: one without a name, made on first use, which is gone with the process however that ends.
  /// It grows to what one step needs; its places are used again, by all policies with this folder. Empty: the system's
  /// folder for temporary files.
  std::string directory = {};
};

/// The folder that the options name: their own or, where that is empty, the system's for temporary files.
std::string offload_directory(const OffloadOptions& options);

/// Makes the file in that folder now, so that a folder without room for one is found out before a run. Throws
/// OffloadError, naming the folder and the reason; nothing has changed then.
void prepare_offload(const OffloadOptions& options);

/// The bytes of a device's values that are outside of its memory.
struct OffloadStats {
  std::size_t held = 0;      ///< of values that are out now
  std::size_t peak = 0;      ///< highest `held` so far; of several folders, the sum of theirs
  std::size_t reserved = 0;  ///< of the files, or of pinned host memory, free places included
};

/// All folders together. On a meta device: of the device that it stands for.
OffloadStats offload_stats(Device device);

}  // namespace palimpsest::memory
