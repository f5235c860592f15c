#pragma once

// The safetensors format: 8 bytes of the header's length, little-endian, a header in JSON that says of each tensor its
// name, element type, shape and place, and the tensors' bytes, row-major and little-endian, without gaps.

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <map>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest::storage {

/// The element types that a file may have. Names are the format's: "F32".
enum class ElementType : std::uint8_t { F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, Bool };

std::size_t size_of(ElementType type);
std::string_view to_string(ElementType type);

/// A tensor in a file.
struct StoredTensor {
  std::string name;
  ElementType type = ElementType::F32;
  std::vector<std::int64_t> shape;  ///< of any rank; a 0 means that there are no elements
  std::uint64_t begin = 0;          ///< in bytes, from the first byte behind the header
  std::uint64_t bytes = 0;
};

/// Metadata: a text for each key.
using Metadata = std::map<std::string, std::string>;

/// A file that is read. The header is checked as a whole before any of it counts, and nothing is allocated on its word:
/// at most its own bytes.
class SafetensorsReader {
 public:
  /// Throws DataError, naming the file, the offence and the tensor, for a file that is missing, no regular file,
  /// truncated or longer than its header says; whose header is longer than 100,000,000 bytes, no JSON in UTF-8, or has
  /// other entries than the format knows, one twice, an unknown type, a shape that overflows, or tensors that overlap
  /// or leave gaps.
  explicit SafetensorsReader(const std::string& file);

  const std::string& file() const { return file_; }
  /// In the order of their bytes.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const Metadata& metadata() const { return metadata_; }

  /// Copies a tensor's bytes from `first` on. Throws DataError if they cannot be read.
  void read(const StoredTensor& tensor, std::uint64_t first, std::span<std::byte> to);

 private:
  std::string file_;
  std::ifstream in_;
  std::uint64_t data_ = 0;  // where the header ends
  std::vector<StoredTensor> tensors_;
  Metadata metadata_;
};

/// A tensor that is to be written; `write` puts its bytes into the stream, all of them.
struct TensorToStore {
  std::string name;
  ElementType type = ElementType::F32;
  std::vector<std::int64_t> shape;
  std::function<void(std::ostream& out)> write;
};

/// Writes a file whole or not at all, the widest types first and then by name, as the format's own library does. Throws
/// ValueError for two tensors of one name, Error where the file cannot be written, which is then as it was.
void write_safetensors(const std::string& file, std::vector<TensorToStore> tensors, const Metadata& metadata = {});

}  // namespace palimpsest::storage
