// Any bytes as a file of weights: read, or refused with a DataError. The header of a file that was read can be written
// again.

#include <palimpsest/storage/safetensors.hpp>

#include <palimpsest/core/error.hpp>
#include <palimpsest/storage/safetensors_header.hpp>
#include "tests/fuzz/input.hpp"

using namespace palimpsest;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::MemoryFile file(fuzz::text_of(data, size));
  try {
    storage::SafetensorsReader reader(file.path());
    std::vector<storage::StoredTensor> tensors = reader.tensors();
    const std::string header = storage::header_text(tensors, reader.metadata());
    const storage::Header again =
        storage::parse_header(header, tensors.empty() ? 0 : tensors.back().begin + tensors.back().bytes);
    fuzz::require(again.offence.empty() && again.tensors.size() == tensors.size());
    fuzz::require(again.metadata == reader.metadata());
    for (std::size_t i = 0; i < tensors.size(); ++i) fuzz::require(tensors[i].begin == reader.tensors()[i].begin);
    for (const storage::StoredTensor& tensor : reader.tensors()) reader.checksum(tensor);
    reader.verify();
  } catch (const DataError&) {
  }
  return 0;
}
