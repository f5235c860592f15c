// Any text as the value of --memory: understood, or refused with a ValueError.

#include <palimpsest/core/error.hpp>
#include <palimpsest/memory/request.hpp>
#include "tests/fuzz/input.hpp"

using namespace palimpsest;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  try {
    const memory::Request request = memory::parse(text);
    if (const auto budget = request.budget()) {
      fuzz::require(!request.offloads());
      fuzz::require(budget->bytes(Device::Cpu) > 0);
      return 0;
    }
    const std::vector<memory::Rule> rules = request.rules();
    fuzz::require(!rules.empty());
    request.offloads();
    const std::vector<std::string> blocks = {"dense1", "transition1", "stage1.unit1", "stage1.unit2"};
    fuzz::require(memory::assign(rules, blocks).size() == blocks.size());
  } catch (const ValueError&) {
  }
  return 0;
}
