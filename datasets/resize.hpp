#pragma once

#include <cstdint>

#include <palimpsest/datasets/picture.hpp>

namespace palimpsest::datasets {

/// A rectangle of a picture, in pixels.
struct Box {
  std::int64_t top = 0;
  std::int64_t left = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
};

/// The pixels of a rectangle, as if it were a picture of its own, in another size: bilinear, and where it shrinks each
/// pixel is a mean over all that it covers, which is called antialiasing. The bits of Pillow's
/// resize(reducing_gap=None) with BILINEAR: weights of a triangle in 22-bit fixed point, along rows first, and bytes in
/// between. Throws ValueError for a box that is not in the picture or a size that is not positive.
Picture resize(const Picture& picture, const Box& box, std::int64_t height, std::int64_t width);

/// The whole picture.
Picture resize(const Picture& picture, std::int64_t height, std::int64_t width);

}  // namespace palimpsest::datasets
