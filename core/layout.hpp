#pragma once

#include <cstdint>

#include <palimpsest/core/shape.hpp>

namespace palimpsest {

/// Calls visit(logical index, memory index) for every element of a tensor: of an image batch, channels-last in memory
/// and channels first in the logical order, which is row-major over the shape; the same order in both of any other.
template <class Visit>
void for_each_element(const Shape& shape, const Visit& visit) {
  const std::int64_t channels = shape.rank() == Shape::max_rank ? shape.c() : 1;
  const std::int64_t plane = shape.count() / (shape.n() * channels);
  std::int64_t logical = 0;
  for (std::int64_t n = 0; n < shape.n(); ++n) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t p = 0; p < plane; ++p) visit(logical++, (n * plane + p) * channels + c);
    }
  }
}

}  // namespace palimpsest
