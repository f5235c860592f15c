#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace palimpsest::datasets {

class RawFile;

/// Unpacks a gzip file (RFC 1952, several members allowed) piece by piece, checksums included.
class Gunzip {
 public:
  /// Reads from `file`, which must outlive this. Throws DataError in a build without zlib.
  explicit Gunzip(RawFile& file);
  ~Gunzip();
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;

  /// Fills the front of `target` with the next unpacked bytes and returns how many; fewer than it holds only at the
  /// end. Throws DataError, with the offset in the compressed file, for data that are corrupt or cut short.
  std::size_t read(std::span<std::uint8_t> target);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace palimpsest::datasets
