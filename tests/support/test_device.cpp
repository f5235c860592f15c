#include "tests/support/test_device.hpp"

#include <cstdlib>
#include <string_view>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>

namespace palimpsest::test {
namespace {

Device read_device() {
  const char* const value = std::getenv("PALIMPSEST_TEST_DEVICE");
  const std::string_view name = value != nullptr ? value : "cpu";
  for (const Device known : {Device::Cpu, Device::Cuda}) {
    if (name == to_string(known)) return known;
  }
  throw ValueError(concat_text("PALIMPSEST_TEST_DEVICE is '", name, "', expected cpu or cuda"));
}

}  // namespace

Device device() {
  static const Device chosen = read_device();
  return chosen;
}

bool emulated() {
  static const bool is = device() == Device::Cuda && cuda_device_name().starts_with("emulated");
  return is;
}

}  // namespace palimpsest::test
