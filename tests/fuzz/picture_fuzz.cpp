// Any bytes as a picture: decoded, or refused with a DataError. A PNG's checksums are made right first, which no change
// to its bytes would leave so: what lies behind them is to be reached.

#include <zlib.h>

#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/picture.hpp>
#include "tests/fuzz/input.hpp"

using namespace palimpsest;

namespace {

void make_checksums_right(std::vector<std::uint8_t>& png) {
  constexpr std::size_t signature = 8;
  const auto number = [&](std::size_t at) {
    return std::size_t{png[at]} << 24 | std::size_t{png[at + 1]} << 16 | std::size_t{png[at + 2]} << 8 | png[at + 3];
  };
  for (std::size_t at = signature; at + 12 <= png.size();) {
    const std::size_t length = number(at);
    if (length > png.size() - at - 12) return;
    const uLong sum = crc32(0, png.data() + at + 4, static_cast<uInt>(length + 4));
    for (int i = 0; i < 4; ++i) png[at + 8 + length + i] = static_cast<std::uint8_t>(sum >> (24 - 8 * i));
    at += 12 + length;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> bytes(data, data + size);
  if (size > 0 && data[0] == 0x89) make_checksums_right(bytes);
  const datasets::PictureOptions options{.limits = {.side = 4096, .pixels = 1 << 18}};
  try {
    const datasets::Picture picture = datasets::decode_picture(bytes, options);
    fuzz::require(picture.height > 0 && picture.width > 0 && picture.height * picture.width <= options.limits.pixels);
    fuzz::require(picture.pixels.size() == static_cast<std::size_t>(picture.height * picture.width * 3));
  } catch (const DataError&) {
  }
  return 0;
}
