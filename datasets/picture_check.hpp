#pragma once

// The checks of a picture's file before it is decoded. The decoder is not to be given anything that has not passed:
// the version that Debian 12 has writes out of bounds for malformed Huffman tables, takes a JPEG that has been cut off
// for whole, ignores a PNG's checksums, and takes memory and time for whatever size a header claims.

#include <cstdint>
#include <span>

#include <palimpsest/datasets/picture.hpp>

namespace palimpsest::datasets {

/// The facts that a file's structure tells.
struct PictureFacts {
  std::int64_t height;
  std::int64_t width;
  int orientation = 1;  ///< EXIF, 1 to 8
};

/// Walks through a JPEG's segments or a PNG's chunks. Throws DataError as decode_picture() says.
PictureFacts check_picture(std::span<const std::uint8_t> bytes, const PictureLimits& limits);

}  // namespace palimpsest::datasets
