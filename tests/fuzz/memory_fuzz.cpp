// Any text as the value of --memory: understood, or refused with a ValueError.

#include <palimpsest/core/error.hpp>
#include <palimpsest/memory/budget.hpp>
#include <palimpsest/memory/rules.hpp>
#include "tests/fuzz/input.hpp"

using namespace palimpsest;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  try {
    if (memory::parse_budget(text, Device::Cpu)) return 0;
    const std::vector<memory::Rule> rules = memory::parse_rules(text);
    fuzz::require(!rules.empty());
    memory::offloads(rules);
    const std::vector<std::string> blocks = {"dense1", "transition1", "stage1.unit1", "stage1.unit2"};
    fuzz::require(memory::assign(rules, blocks).size() == blocks.size());
  } catch (const ValueError&) {
  }
  return 0;
}
