#pragma once

// stb_image behind a seam: nothing else of it is seen, and nothing comes to it that check_picture() has not passed.

#include <cstdint>
#include <memory>
#include <span>

#include <palimpsest/datasets/picture_check.hpp>

namespace palimpsest::datasets {

/// Pixels as a file has them, with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels of 8 bits.
struct DecodedPixels {
  std::int64_t height = 0;
  std::int64_t width = 0;
  int channels = 0;
  std::unique_ptr<std::uint8_t, void (*)(void*)> pixels;  ///< (height, width, channels)
};

/// `facts`: those that check_picture() has found. No allocation is larger than they call for. Throws DataError with the
/// decoder's reason; OutOfMemory.
DecodedPixels decode_pixels(std::span<const std::uint8_t> bytes, const PictureFacts& facts);

}  // namespace palimpsest::datasets
