#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/datasets/input_file.hpp>
#include <palimpsest/datasets/picture.hpp>
#include <palimpsest/datasets/picture_transform.hpp>
#include <palimpsest/datasets/resize.hpp>
#include "tests/support/source_root.hpp"

// The pictures, and what Pillow has read in them, are made by make_pictures.py.

namespace palimpsest::datasets {
namespace {

using Bytes = std::vector<std::uint8_t>;

std::string file_of(const std::string& name) { return test::source_root() + "/tests/datasets/pictures/" + name; }

Bytes bytes_of(const std::string& name) {
  std::ifstream in(file_of(name), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The pixels that Pillow has.
Bytes expected(const std::string& name) {
  RawFile packed(file_of(name + ".rgb"));
  Gunzip file(packed);
  Bytes all;
  Bytes piece(4096);
  while (const std::size_t got = file.read(piece))
    all.insert(all.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(got));
  return all;
}

class Pictures : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!decodes_pictures()) GTEST_SKIP() << "this build decodes no pictures";
  }
};

TEST_F(Pictures, PngsHaveTheBytesThatPillowReads) {
  for (const char* const name : {"drawn.png", "grey.png", "bit.png", "sixteen.png", "palette.png", "dot.png",
                                 "line.png", "transparent_palette.png"}) {
    EXPECT_EQ(read_picture(file_of(name)).pixels, expected(name)) << name;
  }
}

TEST_F(Pictures, TransparentPixelsLieOverTheBackground) {
  for (const char* const name : {"rgba.png", "la.png"}) {
    const Bytes ours = read_picture(file_of(name)).pixels;
    const Bytes theirs = expected(name);
    ASSERT_EQ(ours.size(), theirs.size());
    for (std::size_t i = 0; i < ours.size(); ++i) ASSERT_LE(std::abs(ours[i] - theirs[i]), 1) << name << " " << i;
    const Picture dark = read_picture(file_of(name), {.background = 7});
    const std::size_t end_of_row = static_cast<std::size_t>(dark.width - 1) * 3;
    EXPECT_EQ(dark.pixels[end_of_row], 7) << "the right edge is fully transparent";
    EXPECT_EQ(dark.pixels[0], ours[0]) << "and the left one is not";
  }
}

TEST_F(Pictures, JpegsDifferFromPillowsByRoundingAlone) {
  for (const char* const name : {"444.jpg", "420.jpg", "422.jpg", "progressive.jpg", "restarts.jpg", "grey.jpg"}) {
    const Bytes ours = read_picture(file_of(name)).pixels;
    const Bytes theirs = expected(name);
    ASSERT_EQ(ours.size(), theirs.size()) << name;
    const bool interpolates = std::string(name) == "422.jpg";  // its colours in another way than libjpeg
    const int most = interpolates ? 8 : 4;
    double sum = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) {
      ASSERT_LE(std::abs(ours[i] - theirs[i]), most) << name;
      sum += std::abs(ours[i] - theirs[i]);
    }
    EXPECT_LE(sum / static_cast<double>(ours.size()), interpolates ? 0.25 : 0.1) << name;
  }
}

TEST_F(Pictures, AreTurnedAsTheCameraWasHeld) {
  const Picture upright = read_picture(file_of("turned-1.jpg"));
  const auto pixel = [](const Picture& picture, std::int64_t y, std::int64_t x) {
    return int{picture.pixels[static_cast<std::size_t>((y * picture.width + x) * 3)]};
  };
  const std::int64_t bottom = upright.height - 1;
  const std::int64_t right = upright.width - 1;
  using Place = std::function<std::pair<std::int64_t, std::int64_t>(std::int64_t, std::int64_t)>;
  // The row and the column in the file of the scene's pixel (y, x).
  const Place places[] = {[](auto y, auto x) { return std::pair(y, x); },
                          [=](auto y, auto x) { return std::pair(y, right - x); },
                          [=](auto y, auto x) { return std::pair(bottom - y, right - x); },
                          [=](auto y, auto x) { return std::pair(bottom - y, x); },
                          [](auto y, auto x) { return std::pair(x, y); },
                          [=](auto y, auto x) { return std::pair(bottom - x, y); },
                          [=](auto y, auto x) { return std::pair(bottom - x, right - y); },
                          [=](auto y, auto x) { return std::pair(x, right - y); }};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const std::string name = "turned-" + std::to_string(orientation) + ".jpg";
    const Picture turned = read_picture(file_of(name));
    const bool lies = orientation >= 5;
    ASSERT_EQ(turned.height, lies ? upright.width : upright.height);
    ASSERT_EQ(turned.width, lies ? upright.height : upright.width);
    for (std::int64_t y = 0; y < turned.height; ++y) {
      for (std::int64_t x = 0; x < turned.width; ++x) {
        const auto [row, column] = places[orientation - 1](y, x);
        ASSERT_EQ(pixel(turned, y, x), pixel(upright, row, column)) << name << " " << y << " " << x;
      }
    }
    EXPECT_EQ(read_picture(file_of(name), {.orientation = false}).pixels, upright.pixels);
  }
}

/// The error that decoding these bytes gives; empty if there is none.
std::string refusal(const Bytes& bytes, const PictureOptions& options = {}) {
  try {
    decode_picture(bytes, options);
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

void expect_refused(const Bytes& bytes, const std::string& words) {
  const std::string why = refusal(bytes);
  EXPECT_NE(why.find(words), std::string::npos) << "'" << why << "' does not say '" << words << "'";
}

Bytes from_text(const std::string& text) { return {text.begin(), text.end()}; }

TEST_F(Pictures, OtherFilesAreNamed) {
  expect_refused({}, "an empty file");
  expect_refused(from_text("<!DOCTYPE html>"), "HTML");
  expect_refused(from_text("GIF89a..."), "a GIF");
  expect_refused(from_text("RIFF....WEBP"), "a WebP");
  expect_refused(from_text("nothing of the kind"), "unknown format");
  expect_refused(bytes_of("cmyk.jpg"), "CMYK");
  expect_refused(bytes_of("animated.png"), "animated");
}

TEST_F(Pictures, ThoseThatAreCutOffAnywhereAreRefused) {
  for (const char* const name : {"444.jpg", "progressive.jpg", "restarts.jpg", "rgba.png", "palette.png"}) {
    const Bytes whole = bytes_of(name);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      ASSERT_NE(refusal(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size))), "")
          << name << " cut to " << size;
    }
    Bytes longer = whole;
    longer.insert(longer.end(), {1, 2, 3});
    EXPECT_EQ(refusal(longer), "") << name << ": what comes behind the end is nobody's business";
  }
}

TEST_F(Pictures, AnyDamageToAPngIsSeen) {
  const Bytes whole = bytes_of("grey.png");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    Bytes damaged = whole;
    damaged[i] ^= 0x10;
    ASSERT_NE(refusal(damaged), "") << "byte " << i;
  }
}

/// Any outcome but a crash, which the sanitizers make of reading or writing where nothing is.
TEST_F(Pictures, DamagedJpegsNeverHarm) {
  Random random(7);
  for (const char* const name : {"420.jpg", "progressive.jpg", "restarts.jpg", "grey.jpg"}) {
    const Bytes whole = bytes_of(name);
    for (int round = 0; round < 400; ++round) {
      Bytes damaged = whole;
      for (int change = 0; change < 1 + round % 4; ++change) {
        damaged[random.below(damaged.size())] = static_cast<std::uint8_t>(random.bits());
      }
      const std::string why = refusal(damaged);
      EXPECT_LT(why.size(), 200U);
    }
  }
}

TEST_F(Pictures, MalformedHuffmanTablesDoNotReachTheDecoder) {
  const Bytes whole = bytes_of("444.jpg");
  std::size_t table = 0;
  for (std::size_t i = 2; whole[i + 1] != 0xC4; i += 2 + (whole[i + 2] << 8 | whole[i + 3]))
    table = i + 2 + (whole[i + 2] << 8 | whole[i + 3]);
  const auto with = [&](std::size_t at, std::uint8_t value) {
    Bytes changed = whole;
    changed[table + at] = value;
    return changed;
  };
  expect_refused(with(4, 0x24), "Huffman");
  expect_refused(with(5, 3), "Huffman");
  expect_refused(with(20, 255), "Huffman");
  expect_refused(with(3, static_cast<std::uint8_t>(whole[table + 3] - 1)), "JPEG");
}

/// PNG, annex D.
std::uint32_t crc(const Bytes& bytes, std::size_t begin) {
  std::uint32_t sum = ~std::uint32_t{0};
  for (std::size_t i = begin; i < bytes.size(); ++i) {
    sum ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ ((sum & 1) != 0 ? 0xEDB88320 : 0);
  }
  return ~sum;
}

/// A PNG of 24 bits with this size in its header, these compressed pixels and right checksums.
Bytes png_of(std::uint32_t width, std::uint32_t height, const Bytes& pixels = {0x78, 0x9C, 3, 0, 0, 0, 0, 1}) {
  Bytes png = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
  const auto add = [&](const std::string& name, const Bytes& data) {
    const auto put = [&](std::uint32_t value) {
      for (int shift = 24; shift >= 0; shift -= 8) png.push_back(static_cast<std::uint8_t>(value >> shift));
    };
    put(static_cast<std::uint32_t>(data.size()));
    const std::size_t begin = png.size();
    png.insert(png.end(), name.begin(), name.end());
    png.insert(png.end(), data.begin(), data.end());
    put(crc(png, begin));
  };
  Bytes header;
  for (const std::uint32_t side : {width, height}) {
    for (int shift = 24; shift >= 0; shift -= 8) header.push_back(static_cast<std::uint8_t>(side >> shift));
  }
  header.insert(header.end(), {8, 2, 0, 0, 0});
  add("IHDR", header);
  add("IDAT", pixels);
  add("IEND", {});
  return png;
}

TEST_F(Pictures, SizesAreLookedAtBeforeAnythingIsDecoded) {
  expect_refused(png_of(60'000, 60'000), "a side may have up to 32768");
  expect_refused(png_of(20'000, 20'000), "it may have up to 178956970");
  expect_refused(png_of(0, 5), "a picture of 0x5");
  expect_refused(png_of(4'000'000'000, 2), "a side");
  expect_refused(png_of(10, 10), "a damaged picture");
  expect_refused(png_of(10'000, 10'000), "10000x10000 pixels in 8 bytes");
  EXPECT_NE(refusal(bytes_of("drawn.png"), {.limits = {.pixels = 6000}}), "");
  EXPECT_THROW(read_picture(file_of("drawn.png"), {.limits = {.file_bytes = 100}}), DataError);
  EXPECT_THROW(read_picture(file_of("not there")), DataError);
  EXPECT_THROW(read_picture(test::source_root()), DataError);
}

TEST_F(Pictures, APngInflatesToNoMoreThanItsHeaderSays) {
  expect_refused(bytes_of("bomb.png"), "more than a picture of 10x10 pixels");
}

/// With other values in the frame's segment (T.81, B.2.2), from its marker on.
Bytes with_frame(Bytes jpeg, std::initializer_list<std::pair<std::size_t, std::uint8_t>> changes) {
  std::size_t at = 2;
  while (jpeg[at + 1] != 0xC0 && jpeg[at + 1] != 0xC2) at += 2U + (jpeg[at + 2] << 8 | jpeg[at + 3]);
  for (const auto& [offset, value] : changes) jpeg[at + offset] = value;
  return jpeg;
}

TEST_F(Pictures, AJpegHasABitForEachBlock) {
  for (const char* const name : {"420.jpg", "progressive.jpg"}) {
    const Bytes whole = bytes_of(name);
    expect_refused(with_frame(whole, {{5, 0x20}, {7, 0x20}}), "bytes");  // some 8,192 pixels a side
    expect_refused(with_frame(whole, {{11, 0x51}}), "makes no sense");   // five samples across
    expect_refused(with_frame(whole, {{11, 0x10}}), "makes no sense");   // none down
  }
}

TEST_F(Pictures, AJpegHasNotMoreScansThanProgramsWrite) {
  const Bytes whole = bytes_of("progressive.jpg");
  const Bytes scan = {0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 0, 0};
  Bytes many(whole.begin(), whole.end() - 2);
  for (int i = 0; i < 100; ++i) many.insert(many.end(), scan.begin(), scan.end());
  many.insert(many.end(), {0xFF, 0xD9});
  expect_refused(many, "more than 100 scans");
}

TEST_F(Pictures, TheReasonIsTheFilesOwn) {
  const std::string alone = refusal(png_of(10, 10));
  Bytes other = bytes_of("444.jpg");
  other[other.size() / 2] ^= 0xFF;
  refusal(other);
  refusal(png_of(10, 10, {1, 2, 3}));
  EXPECT_EQ(refusal(png_of(10, 10)), alone);
}

TEST_F(Pictures, AreResizedToTheBytesOfPillow) {
  const Picture drawn = read_picture(file_of("drawn.png"));
  const Box box{.top = 3, .left = 5, .height = 57, .width = 87};
  const std::pair<int, int> sizes[] = {{57, 87}, {30, 40}, {57, 40}, {30, 87}, {100, 131}, {7, 5}, {1, 1}, {90, 20}};
  for (const auto& [height, width] : sizes) {
    const std::string name = "resized-" + std::to_string(height) + "x" + std::to_string(width);
    EXPECT_EQ(resize(drawn, box, height, width).pixels, expected(name)) << name;
  }
  EXPECT_THROW(resize(drawn, {.top = 3, .left = 20, .height = 57, .width = 87}, 4, 4), ValueError);
  EXPECT_THROW(resize(drawn, 0, 4), ValueError);
}

TEST(PictureTransform, CropsBeginAtTheEvenHalf) {
  EXPECT_EQ(centred(256, 224), 16);
  EXPECT_EQ(centred(341, 224), 58);
  EXPECT_EQ(centred(343, 224), 60);
  EXPECT_EQ(centred(224, 224), 0);
}

TEST(PictureTransform, RandomBoxesHaveTheirAreaAndRatioAndLieInside) {
  const PictureTransform how;
  Random random(3);
  double area = 0;
  constexpr int draws = 4000;
  for (int i = 0; i < draws; ++i) {
    const Box box = random_box(300, 400, how, random);
    ASSERT_GE(box.top, 0);
    ASSERT_GE(box.left, 0);
    ASSERT_LE(box.top + box.height, 300);
    ASSERT_LE(box.left + box.width, 400);
    const double ratio = static_cast<double>(box.width) / static_cast<double>(box.height);
    ASSERT_GT(ratio, 0.72);
    ASSERT_LT(ratio, 1.38);
    area += static_cast<double>(box.height * box.width) / (300 * 400);
  }
  EXPECT_NEAR(area / draws, 0.431, 0.02) << "what torchvision's crops have: large ones often do not fit";
  const Box of_line = random_box(2, 5000, how, random);
  EXPECT_LE(of_line.width, 3);
}

TEST(PictureTransform, TheSameStreamGivesTheSameImage) {
  Picture picture{40, 50, Bytes(40 * 50 * 3)};
  for (std::size_t i = 0; i < picture.pixels.size(); ++i)
    picture.pixels[i] = static_cast<std::uint8_t>(i * 7 + i / 150 * 3);
  const PictureTransform how{.size = 16, .augment = true};
  const auto image = [&](std::uint64_t stream) {
    Bytes pixels(3 * 16 * 16);
    Random random(1, stream);
    apply(how, picture, random, pixels.data());
    return pixels;
  };
  EXPECT_EQ(image(1), image(1));
  EXPECT_NE(image(1), image(2));
}

TEST(PictureTransform, JitterAndLightingChangeColoursAsTheyShould) {
  const Picture grey{8, 8, Bytes(8 * 8 * 3, 100)};
  const auto values = [&](double jitter, double lighting) {
    std::vector<Bytes> all;
    for (std::uint64_t stream = 0; stream < 50; ++stream) {
      Random random(5, stream);
      all.emplace_back(3 * 8 * 8);
      apply({.size = 8, .augment = true, .jitter = jitter, .lighting = lighting}, grey, random, all.back().data());
    }
    return all;
  };
  for (const Bytes& image : values(0, 0)) EXPECT_EQ(image, Bytes(3 * 8 * 8, 100));
  bool changed = false;
  for (const Bytes& image : values(0.4, 0)) {
    EXPECT_EQ(image, Bytes(3 * 8 * 8, image[0])) << "an even grey stays one: only its brightness changes";
    EXPECT_GE(image[0], 60);
    EXPECT_LE(image[0], 140);
    changed = changed || image[0] != 100;
  }
  EXPECT_TRUE(changed);
  bool coloured = false;
  for (const Bytes& image : values(0, 0.1)) coloured = coloured || image[0] != image[2 * 64];
  EXPECT_TRUE(coloured);
}

TEST(PictureTransform, AnEvaluationShowsTheMiddle) {
  Picture picture{30, 60, Bytes(30 * 60 * 3)};
  for (std::int64_t y = 0; y < 30; ++y) {
    for (std::int64_t x = 0; x < 60; ++x)
      picture.pixels[static_cast<std::size_t>((y * 60 + x) * 3)] = static_cast<std::uint8_t>(4 * x);
  }
  const PictureTransform how{.size = 26};  // 26 * 256 / 224 = 29.7
  EXPECT_EQ(how.shorter_side(), 30);
  Random random(1);
  Bytes pixels(3 * 26 * 26);
  apply(how, picture, random, pixels.data());
  EXPECT_EQ(pixels[0], 4 * 17);
  EXPECT_EQ(pixels[25], 4 * 42);
  const PictureTransform ten{.size = 26, .crops = 10};
  Bytes all(10 * pixels.size());
  apply(ten, picture, random, all.data());
  const auto first_row = [&](int crop, int x) { return all[static_cast<std::size_t>(crop * 26 * 26 + x)]; };
  EXPECT_TRUE(std::equal(pixels.begin(), pixels.begin() + 26 * 26, all.begin()));
  EXPECT_TRUE(std::equal(pixels.begin() + 26 * 26, pixels.begin() + 2 * 26 * 26, all.begin() + 10 * 26 * 26));
  EXPECT_EQ(first_row(1, 0), 0);
  EXPECT_EQ(first_row(2, 25), 4 * 59);
  EXPECT_EQ(first_row(5, 25), pixels[0]) << "mirrored";
  EXPECT_THROW(apply({.size = 26, .crops = 5}, picture, random, all.data()), ValueError);
  EXPECT_THROW(apply({.size = 26, .augment = true, .crops = 10}, picture, random, all.data()), ValueError);
  EXPECT_EQ(with_shorter_side({2, 5000, Bytes(2 * 5000 * 3)}, 16).width, 16 * longest_ratio);
}

}  // namespace
}  // namespace palimpsest::datasets
