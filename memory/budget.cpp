#include <palimpsest/memory/budget.hpp>

#include <unistd.h>

#include <charconv>
#include <cmath>
#include <map>

#include <palimpsest/core/device.hpp>

namespace palimpsest::memory {

Budget::Budget(std::string_view text) : text_(text) {
  const auto fail = [&]() {
    throw ValueError(concat_text("'", text, "' is no number of bytes, expected one like 2GiB, 1500MB, 750MiB or 40%"));
  };
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number_);
  if (error != std::errc() || !std::isfinite(number_) || number_ <= 0) fail();
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  static const std::map<std::string_view, double> units = {{"", 1},         {"B", 1},        {"kB", 1e3},
                                                           {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
                                                           {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}};
  is_share_ = unit == "%";
  if (is_share_) {
    if (number_ > 100) fail();
    return;
  }
  const auto found = units.find(unit);
  if (found == units.end()) fail();
  number_ *= found->second;
  if (number_ < 1 || number_ > 0x1p60) fail();
}

std::size_t Budget::bytes(std::size_t device_bytes) const {
  if (!is_share_) return static_cast<std::size_t>(number_);
  if (device_bytes == 0) throw ValueError("the size of the device's memory is not known, expected bytes instead of %");
  const auto share = static_cast<std::size_t>(number_ / 100 * static_cast<double>(device_bytes));
  if (share == 0) throw ValueError(concat_text("'", text_, "' of ", device_bytes, " bytes is less than a byte"));
  return share;
}

std::size_t Budget::bytes(Device device) const { return bytes(is_share_ ? device_bytes(device) : 0); }

std::size_t device_bytes(Device device) {
  if (kernel_device(device) == Device::Cuda) return cuda_device_memory().total;
  return static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace palimpsest::memory
