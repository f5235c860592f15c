#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace palimpsest::datasets {

/// The images to learn from, or those to be judged by.
enum class Split : std::uint8_t { Train, Test };

constexpr std::string_view to_string(Split split) { return split == Split::Train ? "train" : "test"; }

/// Labelled 8-bit images of one size, in host memory.
struct ImageSet {
  std::int64_t count = 0;
  std::int64_t channels = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t classes = 0;
  std::vector<std::uint8_t> pixels = {};  ///< (N, C, H, W)
  std::vector<std::int32_t> labels = {};  ///< (N), each in [0, classes)

  /// Bytes of one image.
  std::int64_t image_size() const { return channels * height * width; }
  /// The pixels of one image: (C, H, W).
  const std::uint8_t* image(std::int64_t index) const { return pixels.data() + index * image_size(); }
};

/// Throws ValueError unless every size is positive, `pixels` and `labels` are as long as they say, and every label is
/// in [0, classes). The readers return only sets that pass.
void validate(const ImageSet& images);

}  // namespace palimpsest::datasets
