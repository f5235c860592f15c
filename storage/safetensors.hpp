#pragma once

// The safetensors format: 8 bytes of the header's length, little-endian, a header in JSON that says of each tensor its
// name, element type, shape and place, and the tensors' bytes, row-major and little-endian, without gaps. Files that
// this library writes also have checksums, in the metadata, where other readers pass over them (docs/formats.md).

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <palimpsest/core/whole_file.hpp>
#include <palimpsest/storage/element_type.hpp>

namespace palimpsest::storage {

/// Files are read and written in pieces of at most so many bytes.
inline constexpr std::size_t piece_bytes = std::size_t{1} << 20;

/// A tensor in a file.
struct StoredTensor {
  std::string name = "";
  ElementType type = ElementType::F32;
  std::vector<std::int64_t> shape = {};  ///< of any rank; a 0 means that there are no elements
  std::uint64_t begin = 0;               ///< in bytes, from the first byte behind the header
  std::uint64_t bytes = 0;
  std::string checksum = "";  ///< XXH3 of its bytes, 64 bits in hexadecimal, as the file says; empty if it does not
};

/// Metadata: a text for each key.
using Metadata = std::map<std::string, std::string>;

/// A file that is read. The header is checked as a whole before any of it counts, its checksum, too, if it has one, and
/// nothing is allocated on its word: at most its own bytes.
class SafetensorsReader {
 public:
  /// Throws DataError, naming the file, the offence and the tensor, for a file that is missing, no regular file,
  /// truncated or longer than its header says; whose header is damaged, longer than 100,000,000 bytes, no JSON in
  /// UTF-8, or has other entries than the format knows, one twice, an unknown type, a shape that overflows, or tensors
  /// that overlap or leave gaps. Throws Error in a build without the libraries that this takes.
  explicit SafetensorsReader(const std::string& file);

  const std::string& file() const { return file_; }
  /// In the order of their bytes.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  /// Without the checksums.
  const Metadata& metadata() const { return metadata_; }
  /// Files of other programs have none.
  bool has_checksums() const { return has_checksums_; }

  /// Copies a tensor's bytes from `first` on. Throws DataError if they cannot be read.
  void read(const StoredTensor& tensor, std::uint64_t first, std::span<std::byte> to);
  /// Hands all bytes of a tensor over, in pieces.
  void read_all(const StoredTensor& tensor, const std::function<void(std::span<const std::byte> piece)>& take);

  /// The checksum that a tensor's bytes have, whether or not the file says what it should be.
  std::string checksum(const StoredTensor& tensor);
  /// Reads through the file and compares all checksums that it has. Throws DataError, naming the tensor that is
  /// damaged.
  void verify();

 private:
  std::string file_;
  std::ifstream in_;
  std::uint64_t data_ = 0;  // where the header ends
  std::vector<StoredTensor> tensors_;
  Metadata metadata_;
  bool has_checksums_ = false;

  std::string read_header(std::uint64_t size);
  void take_checksums(const std::string& checksums);
  [[noreturn]] void refuse_other_kind(std::uint64_t first_bytes) const;
  [[noreturn]] void fail(const std::string& why) const;
};

/// Takes the next bytes of a tensor that is being written.
using PutBytes = std::function<void(std::span<const std::byte> piece)>;

/// A tensor that is to be written; `write` hands over its bytes, all of them, in pieces of any size.
struct TensorToStore {
  std::string name;
  ElementType type = ElementType::F32;
  std::vector<std::int64_t> shape;
  std::function<void(const PutBytes& put)> write;
};

/// Writes a file whole or not at all, the widest types first and then by name, as the format's own library does, with
/// checksums. Throws ValueError for two tensors of one name, for a name or a key of the metadata that is taken by the
/// format or the checksums, and for a tensor that hands over more or fewer bytes than it has; Error where the file
/// cannot be written, which is then as it was, and in a build without the libraries that this takes.
void write_safetensors(const std::string& file, std::vector<TensorToStore> tensors, const Metadata& metadata = {});
/// The file for a later write. Finds out at once whether that can be: throws Error as WholeFile does, and in a build
/// without the libraries that this takes. An empty name makes a file that ignores what it is given.
WholeFile safetensors_file(const std::string& name);
/// The first part of a write: the tensors are not read any more when it returns, and PendingFile::commit(), which may
/// wait for the disk on another thread, gives the file its name.
PendingFile stage_safetensors(const WholeFile& file, std::vector<TensorToStore> tensors, Metadata metadata = {});

}  // namespace palimpsest::storage
