#include <palimpsest/datasets/picture_check.hpp>

#include <zlib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <palimpsest/core/error.hpp>

namespace palimpsest::datasets {
namespace {

using Bytes = std::span<const std::uint8_t>;

[[noreturn]] void refuse(const std::string& why) { throw DataError(why); }

/// A number of so many bytes, the most significant first. There must be as many.
std::uint32_t number(Bytes bytes, std::size_t at, int size) {
  std::uint32_t value = 0;
  for (int i = 0; i < size; ++i) value = value << 8 | bytes[at + static_cast<std::size_t>(i)];
  return value;
}

bool begins_with(Bytes bytes, std::string_view text) {
  const auto same = [](std::uint8_t byte, char c) { return byte == static_cast<std::uint8_t>(c); };
  return bytes.size() >= text.size() &&
         std::equal(text.begin(), text.end(), bytes.begin(), [&](char c, std::uint8_t b) { return same(b, c); });
}

/// The orientation in the TIFF structure of EXIF data: entry 0x0112 of the first directory. 1, as it is, for what makes
/// no sense: the picture does not depend on it.
int orientation_of(Bytes tiff) {
  const bool little = begins_with(tiff, {"II*\0", 4});
  if (!little && !begins_with(tiff, {"MM\0*", 4})) return 1;
  const auto read = [&](std::size_t at, int size) -> std::uint32_t {
    if (at > tiff.size() || tiff.size() - at < static_cast<std::size_t>(size)) return 0;
    const std::uint32_t value = number(tiff, at, size);
    if (!little) return value;
    return size == 2 ? (value >> 8 | (value & 0xFF) << 8) : __builtin_bswap32(value);
  };
  const std::size_t directory = read(4, 4);
  const std::uint32_t entries = read(directory, 2);
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + std::size_t{i} * 12;
    if (entry >= tiff.size()) break;
    constexpr std::uint32_t orientation = 0x0112;
    constexpr std::uint32_t short_integer = 3;
    if (read(entry, 2) != orientation || read(entry + 2, 2) != short_integer) continue;
    const std::uint32_t value = read(entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

void check_limits(const PictureFacts& facts, const PictureLimits& limits) {
  const std::string size = concat_text("a picture of ", facts.width, "x", facts.height, " pixels");
  if (facts.width < 1 || facts.height < 1) refuse(size);
  if (std::max(facts.width, facts.height) > limits.side) {
    refuse(concat_text(size, ", a side may have up to ", limits.side));
  }
  if (facts.width * facts.height > limits.pixels) {
    refuse(concat_text(size, ", it may have up to ", limits.pixels));
  }
}

/// JPEG (ITU-T T.81, annex B): segments that begin with 0xFF and a code.
class JpegCheck {
 public:
  JpegCheck(Bytes bytes, const PictureLimits& limits) : bytes_(bytes), limits_(limits) {}

  PictureFacts facts() {
    at_ = 2;  // behind the start of the image
    bool scanned = false;
    for (;;) {
      const std::uint8_t code = next_marker(scanned);
      if (code == end_of_image) break;
      const Bytes segment = take_segment();
      look_at(code, segment);
      scanned = code == start_of_scan;
      // Each scan may go over the whole picture, however few bytes it has.
      if (scanned && ++scans_ > most_scans) refuse(concat_text("a JPEG of more than ", most_scans, " scans"));
    }
    if (!framed_) refuse("a JPEG without a picture");
    if (scans_ == 0) refuse("a JPEG without pixels");
    check_length();
    return facts_;
  }

 private:
  static constexpr std::uint8_t end_of_image = 0xD9;
  static constexpr std::uint8_t start_of_scan = 0xDA;
  static constexpr int most_scans = 100;  // programs write up to a dozen

  Bytes bytes_;
  const PictureLimits& limits_;
  std::size_t at_ = 0;
  bool framed_ = false;
  int scans_ = 0;
  PictureFacts facts_{};
  struct Component {
    std::uint8_t name;
    int across, down;  // samples, of the most that a component has
    std::uint8_t quantisation;
  };
  std::vector<Component> components_;
  bool progressive_ = false;
  bool huffman_[2][4] = {};    // defined, of the first coefficients and of the others
  bool quantisation_[4] = {};  // defined

  std::uint8_t byte() {
    if (at_ == bytes_.size()) refuse("a JPEG that has been cut off: its end is missing");
    return bytes_[at_++];
  }

  /// The code of the next marker. Behind the header of a scan come its pixels, in which 0xFF is followed by 0 or by a
  /// number of a restart.
  std::uint8_t next_marker(bool in_scan) {
    for (;;) {
      std::uint8_t code = byte();
      if (code != 0xFF && !in_scan) refuse("a damaged JPEG: a segment is longer or shorter than it says");
      while (code != 0xFF) code = byte();
      while (code == 0xFF) code = byte();
      const bool restarts = code >= 0xD0 && code <= 0xD7;
      if (!in_scan || (code != 0 && !restarts)) return code;
    }
  }

  Bytes take_segment() {
    if (bytes_.size() - at_ < 2) refuse("a JPEG that has been cut off: its end is missing");
    const std::size_t length = number(bytes_, at_, 2);
    if (length < 2) refuse("a damaged JPEG: a segment has no length");
    if (bytes_.size() - at_ < length) refuse("a JPEG that has been cut off: its end is missing");
    const Bytes segment = bytes_.subspan(at_ + 2, length - 2);
    at_ += length;
    return segment;
  }

  void look_at(std::uint8_t code, Bytes segment) {
    constexpr std::uint8_t huffman_tables = 0xC4;
    constexpr std::uint8_t quantisation_tables = 0xDB;
    constexpr std::uint8_t arithmetic_tables = 0xCC;
    constexpr std::uint8_t extension = 0xC8;
    constexpr std::uint8_t exif = 0xE1;
    if (code == huffman_tables) return take_tables(segment);
    if (code == quantisation_tables) return take_quantisation(segment);
    if (code == start_of_scan) return check_scan(segment);
    if (code == exif && begins_with(segment, {"Exif\0\0", 6})) {
      facts_.orientation = orientation_of(segment.subspan(6));
    } else if (code >= 0xC0 && code <= 0xCF && code != arithmetic_tables && code != extension) {
      check_frame(code, segment);
    }
  }

  void check_frame(std::uint8_t code, Bytes segment) {
    if (code > 0xC2) refuse("a JPEG of a kind that is not decoded (lossless, hierarchical or arithmetic)");
    if (std::exchange(framed_, true)) refuse("a damaged JPEG: it has two sizes");
    if (segment.size() < 6) refuse("a damaged JPEG: its size is missing");
    if (segment[0] != 8) refuse(concat_text("a JPEG of ", int{segment[0]}, " bits, expected 8"));
    facts_.height = number(segment, 1, 2);
    facts_.width = number(segment, 3, 2);
    check_limits(facts_, limits_);
    const int channels = segment[5];
    if (channels == 4) refuse("a CMYK JPEG, expected grey or RGB");
    if (channels != 1 && channels != 3) refuse(concat_text("a JPEG of ", channels, " channels"));
    if (segment.size() != 6 + 3 * static_cast<std::size_t>(channels)) refuse("a damaged JPEG: its size makes no sense");
    progressive_ = code == 0xC2;
    for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
      const std::uint8_t sampling = segment[7 + 3 * c];
      const Component component = {segment[6 + 3 * c], sampling >> 4, sampling & 0x0F, segment[8 + 3 * c]};
      if (std::min(component.across, component.down) < 1 || std::max(component.across, component.down) > 4) {
        refuse("a damaged JPEG: its size makes no sense");
      }
      components_.push_back(component);
    }
  }

  /// The first coefficient of each block of 8x8 samples takes a bit at least.
  void check_length() const {
    int across = 0;
    int down = 0;
    for (const Component& component : components_) {
      across = std::max(across, component.across);
      down = std::max(down, component.down);
    }
    std::int64_t blocks = 0;
    for (const Component& component : components_) {
      const auto along = [](std::int64_t pixels, int samples, int most) {
        return (pixels * samples + 8 * most - 1) / (8 * most);
      };
      blocks += along(facts_.width, component.across, across) * along(facts_.height, component.down, down);
    }
    if (blocks > 8 * static_cast<std::int64_t>(bytes_.size())) {
      refuse(concat_text("a damaged JPEG: ", facts_.width, "x", facts_.height, " pixels in ", bytes_.size(), " bytes"));
    }
  }

  /// Each table has a class of 0 or 1, a number of up to 3 and up to 256 codes, of which no more are of a length than
  /// there can be; the tables fill the segment.
  void take_tables(Bytes segment) {
    constexpr std::size_t lengths = 16;
    while (!segment.empty()) {
      if (segment.size() < 1 + lengths || segment[0] > 0x1F || (segment[0] & 0x0F) > 3) {
        refuse("a damaged JPEG: a Huffman table makes no sense");
      }
      std::size_t codes = 0;
      std::uint32_t room = 1;
      for (std::size_t length = 1; length <= lengths; ++length) {
        const std::uint32_t count = segment[length];
        room = 2 * room;
        if (count > room) refuse("a damaged JPEG: a Huffman table has more codes than there are");
        room -= count;
        codes += count;
      }
      if (codes > 256 || segment.size() < 1 + lengths + codes) refuse("a damaged JPEG: a Huffman table makes no sense");
      huffman_[segment[0] >> 4][segment[0] & 0x0F] = true;
      segment = segment.subspan(1 + lengths + codes);
    }
  }

  /// 64 numbers of one or two bytes each.
  void take_quantisation(Bytes segment) {
    while (!segment.empty()) {
      const std::size_t size = 1 + std::size_t{64} * (1 + (segment[0] >> 4));
      if (segment[0] > 0x1F || (segment[0] & 0x0F) > 3 || segment.size() < size) {
        refuse("a damaged JPEG: a quantisation table makes no sense");
      }
      quantisation_[segment[0] & 0x0F] = true;
      segment = segment.subspan(size);
    }
  }

  /// A scan's components have come before it, and so have the tables that it names.
  void check_scan(Bytes segment) const {
    if (!framed_) refuse("a damaged JPEG: pixels come before their size");
    const std::size_t count = segment.empty() ? 0 : segment[0];
    if (count < 1 || count > components_.size() || segment.size() != 4 + 2 * count) {
      refuse("a damaged JPEG: a scan makes no sense");
    }
    const std::uint8_t first = segment[1 + 2 * count];
    const bool refines = segment[3 + 2 * count] >> 4 != 0;
    const bool reads_first = !progressive_ || (first == 0 && !refines);
    const bool reads_others = !progressive_ || first != 0;
    for (std::size_t c = 0; c < count; ++c) {
      const std::uint8_t name = segment[1 + 2 * c];
      const std::uint8_t tables = segment[2 + 2 * c];
      const auto component =
          std::find_if(components_.begin(), components_.end(), [&](const Component& it) { return it.name == name; });
      const bool known =
          component != components_.end() && component->quantisation < 4 && tables >> 4 < 4 && (tables & 0x0F) < 4;
      if (!known) refuse("a damaged JPEG: a scan makes no sense");
      const bool defined = quantisation_[component->quantisation] && (!reads_first || huffman_[0][tables >> 4]) &&
                           (!reads_others || huffman_[1][tables & 0x0F]);
      if (!defined) refuse("a damaged JPEG: a table is missing");
    }
  }
};

/// PNG (W3C, third edition, section 5): chunks of a length, a name, data and a CRC.
class PngCheck {
 public:
  PngCheck(Bytes bytes, const PictureLimits& limits) : bytes_(bytes), limits_(limits) {}

  PictureFacts facts() {
    constexpr std::size_t signature = 8;
    std::size_t at = signature;
    for (;;) {
      if (bytes_.size() - at < 12) refuse("a PNG that has been cut off: its end is missing");
      const std::size_t length = number(bytes_, at, 4);
      if (bytes_.size() - at - 12 < length) refuse("a PNG that has been cut off: its end is missing");
      const Bytes named = bytes_.subspan(at + 4, 4 + length);
      check_sum(named, number(bytes_, at + 8 + length, 4));
      const bool first = at == signature;
      if (first != begins_with(named, "IHDR")) refuse("a damaged PNG: its header is not where it should be");
      look_at(named);
      if (begins_with(named, "IDAT")) pixels_ += length;
      if (begins_with(named, "IEND")) break;
      at += 12 + length;
    }
    if (pixels_ == 0) refuse("a PNG without pixels");
    check_length();
    return facts_;
  }

 private:
  Bytes bytes_;
  const PictureLimits& limits_;
  PictureFacts facts_{};
  int bits_ = 0;            // of a pixel
  std::size_t pixels_ = 0;  // compressed bytes

  /// A byte is compressed to no less than a 1,032nd.
  void check_length() const {
    const std::int64_t row = (facts_.width * bits_ + 7) / 8;
    if (row * facts_.height > 1032 * static_cast<std::int64_t>(pixels_)) {
      refuse(concat_text("a damaged PNG: ", facts_.width, "x", facts_.height, " pixels in ", pixels_, " bytes"));
    }
  }

  static void check_sum(Bytes named, std::uint32_t expected) {
    const uLong sum = crc32(crc32(0, nullptr, 0), named.data(), static_cast<uInt>(named.size()));
    if (sum != expected) refuse("a damaged PNG: a checksum is another than it should be");
  }

  void look_at(Bytes named) {
    if (begins_with(named, "IHDR")) {
      if (named.size() != 4 + 13) refuse("a damaged PNG: its header makes no sense");
      facts_.width = number(named, 4, 4);
      facts_.height = number(named, 8, 4);
      check_limits(facts_, limits_);
      constexpr std::array<int, 7> channels = {1, 0, 3, 1, 2, 0, 4};  // by the type of its colours
      if (named[13] >= channels.size()) refuse("a damaged PNG: its header makes no sense");
      bits_ = named[12] * channels[named[13]];
    } else if (begins_with(named, "acTL")) {
      refuse("an animated PNG");
    } else if (begins_with(named, "eXIf")) {
      facts_.orientation = orientation_of(named.subspan(4));
    }
  }
};

/// The name of a format that people have in folders of pictures; empty for none that is known.
std::string_view other_format(Bytes bytes) {
  struct Beginning {
    std::string_view bytes;
    std::string_view name;
  };
  constexpr std::array<Beginning, 7> beginnings = {{{"GIF8", "a GIF"},
                                                    {"RIFF", "a WebP"},
                                                    {"BM", "a BMP"},
                                                    {{"II*\0", 4}, "a TIFF"},
                                                    {{"MM\0*", 4}, "a TIFF"},
                                                    {"<", "a text (HTML, SVG or XML)"},
                                                    {"P6", "a PPM"}}};
  for (const Beginning& beginning : beginnings) {
    if (begins_with(bytes, beginning.bytes)) return beginning.name;
  }
  return {};
}

}  // namespace

PictureFacts check_picture(Bytes bytes, const PictureLimits& limits) {
  if (begins_with(bytes, "\xFF\xD8")) return JpegCheck(bytes, limits).facts();
  if (begins_with(bytes, "\x89PNG\r\n\x1A\n")) return PngCheck(bytes, limits).facts();
  if (bytes.empty()) refuse("an empty file");
  const std::string_view other = other_format(bytes);
  refuse(concat_text(other.empty() ? "a file of an unknown format" : other, ", expected a JPEG or a PNG"));
}

}  // namespace palimpsest::datasets
