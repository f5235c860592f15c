#pragma once

// Pictures out of files: JPEG and PNG, in memory.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace palimpsest::datasets {

/// An 8-bit RGB picture.
struct Picture {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> pixels = {};  ///< (height, width, 3)
};

/// Limits that are looked at before anything is decoded or allocated.
struct PictureLimits {
  std::int64_t side = 32768;                          ///< pixels of a side
  std::int64_t pixels = 178'956'970;                  ///< of a picture: a gibibyte of six bytes each
  std::int64_t file_bytes = std::int64_t{256} << 20;  ///< of a file
};

/// How a file becomes pixels.
struct PictureOptions {
  PictureLimits limits = {};
  /// The grey that shines through transparent pixels: white, as on a page.
  std::uint8_t background = 255;
  /// Turn and mirror a picture as its EXIF data say a camera was held. Pillow, torchvision and so published results do
  /// not.
  bool orientation = true;
};

/// Decodes a JPEG or a PNG, told by its content: baseline and progressive JPEG of 8 bits, grey or colour; PNG of every
/// kind, of 16 bits the upper 8. Grey becomes three equal channels, and transparent pixels are laid over the
/// background. Throws DataError, which does not name a file: for another format, CMYK, an animation, a picture beyond
/// the limits, and data that are cut off or damaged (a PNG's checksums, a JPEG's tables and its end are looked at
/// first), or that have more or fewer bytes than so many pixels can take; OutOfMemory; Error in a build without
/// stb_image or zlib. A JPEG whose pixels end early is grey from there on.
Picture decode_picture(std::span<const std::uint8_t> bytes, const PictureOptions& options = {});

/// Reads and decodes a file. Throws the same with the file's name, and DataError for a file that cannot be read.
Picture read_picture(const std::string& file, const PictureOptions& options = {});

/// True for a build that decodes pictures.
bool decodes_pictures();

}  // namespace palimpsest::datasets
