#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <palimpsest/core/types.hpp>

namespace palimpsest::memory {

/// So many bytes, or such a share of a device's memory.
class Budget {
 public:
  /// Reads "2GiB", "1500 MB", "750MiB", "123456" (bytes) or "40%". Throws ValueError.
  explicit Budget(std::string_view text);

  const std::string& text() const { return text_; }
  /// The bytes, of which a share is one of `device_bytes`. Throws ValueError for a share of 0, which stands for a
  /// memory of unknown size, and for one of less than a byte.
  std::size_t bytes(std::size_t device_bytes) const;
  /// A share is one of this device's memory. Throws DeviceError for a share of a device that is not there.
  std::size_t bytes(Device device) const;

 private:
  std::string text_;
  double number_ = 0;  ///< of bytes, or per cent
  bool is_share_ = false;
};

/// Bytes of the memory of the card or, for the CPU, of the machine; of a meta device: of the device that it stands for.
/// Throws DeviceError if the device is not there.
std::size_t device_bytes(Device device);

}  // namespace palimpsest::memory
