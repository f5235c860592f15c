#include <palimpsest/memory/budget.hpp>

#include <unistd.h>

#include <charconv>
#include <cmath>
#include <map>

#include <palimpsest/core/device.hpp>

namespace palimpsest::memory {
namespace {

constexpr std::string_view budget_prefix = "budget=";

}  // namespace

bool is_budget(std::string_view text) { return text.starts_with(budget_prefix); }

std::optional<std::size_t> parse_budget(std::string_view text, Device device) {
  if (!is_budget(text)) return std::nullopt;
  return parse_bytes(text.substr(budget_prefix.size()), device);
}

std::size_t parse_bytes(std::string_view text, std::size_t device_bytes) {
  const auto fail = [&]() {
    throw ValueError(concat_text("'", text, "' is no number of bytes, expected one like 2GiB, 1500MB, 750MiB or 40%"));
  };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number <= 0) fail();
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  static const std::map<std::string_view, double> units = {{"", 1},         {"B", 1},        {"kB", 1e3},
                                                           {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
                                                           {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}};
  if (unit == "%") {
    if (number > 100) fail();
    if (device_bytes == 0)
      throw ValueError("the size of the device's memory is not known, expected bytes instead of %");
    return static_cast<std::size_t>(number / 100 * static_cast<double>(device_bytes));
  }
  const auto found = units.find(unit);
  if (found == units.end() || number * found->second < 1 || number * found->second > 0x1p60) fail();
  return static_cast<std::size_t>(number * found->second);
}

std::size_t parse_bytes(std::string_view text, Device device) {
  return parse_bytes(text, text.ends_with('%') ? device_bytes(device) : 0);
}

std::size_t device_bytes(Device device) {
  if (kernel_device(device) == Device::Cuda) return cuda_device_memory().total;
  return static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace palimpsest::memory
