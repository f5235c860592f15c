#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <palimpsest/datasets/gunzip.hpp>

namespace palimpsest::datasets {

/// True if there is nothing at `path`. A path that may not be looked at is not missing: opening it says why.
bool is_missing(const std::filesystem::path& path);

/// A regular file as it lies on the disk, read from front to back.
class RawFile {
 public:
  /// Throws DataError for a file that is missing, unreadable or not a regular file (after following links).
  explicit RawFile(std::filesystem::path path);

  /// Fills the front of `target` and returns how many bytes that were; fewer than it holds only at the end.
  /// Throws DataError if the system reports an error.
  std::size_t read(std::span<std::uint8_t> target);
  void rewind();

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  std::uint64_t offset() const { return offset_; }

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Closer> file_;
  std::uint64_t size_ = 0;
  std::uint64_t offset_ = 0;
};

/// A data file, plain or gzipped (told by its first two bytes, not by its name), read from front to back. Every failure
/// is a DataError that names the file, the offset in the unpacked data, what was expected and what was found.
class InputFile {
 public:
  /// Throws DataError for a file that cannot be opened or is empty.
  explicit InputFile(std::filesystem::path path);

  /// The next four bytes as a big-endian number. `what` names it in errors.
  std::uint32_t read_big_endian(std::string_view what);

  /// The rest of the file, which must be exactly `bytes` bytes, called `what` in errors. Nothing is allocated on the
  /// word of a header: the size of a plain file is compared first; a gzipped one is unpacked in pieces, at most `bytes`
  /// + 1.
  std::vector<std::uint8_t> read_rest(std::uint64_t bytes, std::string_view what);

  /// Throws the DataError "file: at byte `offset`: `problem`".
  [[noreturn]] void fail(std::uint64_t offset, std::string_view problem) const;

  const std::filesystem::path& path() const { return raw_.path(); }

 private:
  RawFile raw_;
  std::unique_ptr<Gunzip> gunzip_;  // null for a plain file
  std::uint64_t offset_ = 0;

  std::size_t read(std::span<std::uint8_t> target);
  [[noreturn]] void wrong_length(std::uint64_t expected, std::uint64_t found, std::string_view what) const;
};

}  // namespace palimpsest::datasets
