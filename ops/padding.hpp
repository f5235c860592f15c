#pragma once

#include <cstdint>

namespace palimpsest::ops {

/// Rows and columns around an image; the sides may differ (TensorFlow's SAME where there is a stride).
struct Padding {
  std::int64_t top = 0;
  std::int64_t left = 0;
  std::int64_t bottom = 0;
  std::int64_t right = 0;

  static Padding all(std::int64_t pixels) { return {pixels, pixels, pixels, pixels}; }
};

}  // namespace palimpsest::ops
