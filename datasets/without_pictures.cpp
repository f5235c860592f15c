// The stand-in for picture_check.cpp and picture_decoder.cpp in a build without stb_image or zlib.

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/picture.hpp>
#include <palimpsest/datasets/picture_check.hpp>
#include <palimpsest/datasets/picture_decoder.hpp>

namespace palimpsest::datasets {
namespace {

[[noreturn]] void refuse() {
  throw Error("pictures cannot be decoded: this build of the library has been made without stb_image or zlib");
}

}  // namespace

bool decodes_pictures() { return false; }
PictureFacts check_picture(std::span<const std::uint8_t> /*bytes*/, const PictureLimits& /*limits*/) { refuse(); }
DecodedPixels decode_pixels(std::span<const std::uint8_t> /*bytes*/, const PictureFacts& /*facts*/) { refuse(); }

}  // namespace palimpsest::datasets
