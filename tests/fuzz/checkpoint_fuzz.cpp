// Any bytes as a checkpoint: read, or refused with a DataError.

#include <palimpsest/train/checkpoint_reader.hpp>

#include <palimpsest/core/error.hpp>
#include "tests/fuzz/input.hpp"

using namespace palimpsest;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::MemoryFile file(fuzz::text_of(data, size));
  try {
    train::CheckpointReader checkpoint(file.path());
    fuzz::require(checkpoint.steps() >= 0);
    checkpoint.settings();
    checkpoint.counters();
    const train::RunRecord record = checkpoint.record();
    fuzz::require(static_cast<std::int64_t>(record.steps.size()) == checkpoint.steps());
  } catch (const DataError&) {
  }
  return 0;
}
