#include <palimpsest/datasets/picture.hpp>

#include <algorithm>
#include <new>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/input_file.hpp>
#include <palimpsest/datasets/picture_check.hpp>
#include <palimpsest/datasets/picture_decoder.hpp>
#include <palimpsest/datasets/printable.hpp>

namespace palimpsest::datasets {
namespace {

/// The way from a turned picture's pixel (y, x) to the file's: the place of (0, 0) in the picture as it lies in the
/// file, and the steps from there along a row and down a column, in pixels.
struct Turn {
  std::int64_t origin;
  std::int64_t right;
  std::int64_t down;
};

/// EXIF 2.32, table of tag 0x0112: which side of the scene the first row and the first column are.
Turn turn_of(int orientation, std::int64_t height, std::int64_t width) {
  const std::int64_t bottom = (height - 1) * width;
  const std::int64_t end = width - 1;
  switch (orientation) {
    case 2:
      return {end, -1, width};
    case 3:
      return {bottom + end, -1, -width};
    case 4:
      return {bottom, 1, -width};
    case 5:
      return {0, width, 1};
    case 6:
      return {bottom, -width, 1};
    case 7:
      return {bottom + end, -width, -1};
    case 8:
      return {end, width, -1};
    default:
      return {0, 1, width};
  }
}

/// Three channels of a pixel: grey three times, and what is transparent over the background.
template <int channels>
void write_pixel(const std::uint8_t* from, std::uint8_t background, std::uint8_t* to) {
  constexpr bool has_alpha = channels % 2 == 0;
  constexpr bool is_grey = channels < 3;
  for (int c = 0; c < 3; ++c) {
    int value = from[is_grey ? 0 : c];
    if constexpr (has_alpha) {
      const int alpha = from[channels - 1];
      value = (value * alpha + background * (255 - alpha) + 127) / 255;
    }
    to[c] = static_cast<std::uint8_t>(value);
  }
}

template <int channels>
Picture to_rgb(const DecodedPixels& decoded, int orientation, std::uint8_t background) {
  Picture picture{decoded.height, decoded.width};
  if (orientation >= 5) std::swap(picture.height, picture.width);
  picture.pixels.resize(static_cast<std::size_t>(picture.height * picture.width * 3));
  const Turn turn = turn_of(orientation, decoded.height, decoded.width);
  std::uint8_t* to = picture.pixels.data();
  for (std::int64_t y = 0; y < picture.height; ++y) {
    const std::uint8_t* from = decoded.pixels.get() + (turn.origin + y * turn.down) * channels;
    for (std::int64_t x = 0; x < picture.width; ++x, to += 3, from += turn.right * channels) {
      write_pixel<channels>(from, background, to);
    }
  }
  return picture;
}

Picture to_rgb(const DecodedPixels& decoded, int orientation, std::uint8_t background) {
  switch (decoded.channels) {
    case 1:
      return to_rgb<1>(decoded, orientation, background);
    case 2:
      return to_rgb<2>(decoded, orientation, background);
    case 3:
      return to_rgb<3>(decoded, orientation, background);
    default:
      return to_rgb<4>(decoded, orientation, background);
  }
}

/// All bytes of a file. Its size is the file system's word, not that of its content.
std::vector<std::uint8_t> bytes_of(const std::string& file, const PictureLimits& limits) {
  RawFile raw(file);
  if (raw.size() > static_cast<std::uint64_t>(limits.file_bytes)) {
    throw DataError(concat_text("a file of ", raw.size(), " bytes, it may have up to ", limits.file_bytes));
  }
  std::vector<std::uint8_t> bytes(raw.size());
  bytes.resize(raw.read(bytes));
  return bytes;
}

}  // namespace

Picture decode_picture(std::span<const std::uint8_t> bytes, const PictureOptions& options) {
  const PictureFacts facts = check_picture(bytes, options.limits);
  const DecodedPixels decoded = decode_pixels(bytes, facts);
  try {
    return to_rgb(decoded, options.orientation ? facts.orientation : 1, options.background);
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(concat_text("no memory for a picture of ", facts.width, "x", facts.height, " pixels"));
  }
}

Picture read_picture(const std::string& file, const PictureOptions& options) {
  const std::vector<std::uint8_t> bytes = [&] {
    try {
      return bytes_of(file, options.limits);
    } catch (const DataError& error) {
      const std::string why = error.what();
      throw DataError(why.find(file) == std::string::npos ? concat_text(printable(file), ": ", why) : printable(why));
    } catch (const std::bad_alloc&) {
      throw OutOfMemory(concat_text(printable(file), ": no memory for its bytes"));
    }
  }();
  try {
    return decode_picture(bytes, options);
  } catch (const DataError& error) {
    throw DataError(concat_text(printable(file), ": ", error.what()));
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(concat_text(printable(file), ": ", error.what()));
  }
}

}  // namespace palimpsest::datasets
