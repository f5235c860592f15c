// The stand-in for safetensors.cpp in a build without nlohmann_json or xxhash.

#include <palimpsest/storage/safetensors.hpp>

#include <palimpsest/core/error.hpp>

namespace palimpsest::storage {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(
      concat_text("cannot ", what, ": this build of the library has been made without nlohmann_json or xxhash"));
}

}  // namespace

SafetensorsReader::SafetensorsReader(const std::string& file) { refuse("read " + file); }
void SafetensorsReader::read(const StoredTensor& tensor, std::uint64_t /*first*/, std::span<std::byte> /*to*/) {
  refuse("read " + tensor.name);
}
void SafetensorsReader::read_all(const StoredTensor& tensor,
                                 const std::function<void(std::span<const std::byte> piece)>& /*take*/) {
  refuse("read " + tensor.name);
}
std::string SafetensorsReader::checksum(const StoredTensor& tensor) { refuse("read " + tensor.name); }
void SafetensorsReader::verify() { refuse("read " + file_); }

void write_safetensors(const std::string& file, std::vector<TensorToStore> /*tensors*/, const Metadata& /*metadata*/) {
  refuse("write " + file);
}
WholeFile safetensors_file(const std::string& name) {
  if (!name.empty()) refuse("write " + name);
  return WholeFile(name);
}
PendingFile stage_safetensors(const WholeFile& /*file*/, std::vector<TensorToStore> /*tensors*/,
                              Metadata /*metadata*/) {
  refuse("write a file of weights");
}

}  // namespace palimpsest::storage
