#pragma once

#include <algorithm>
#include <cstdint>

#include <palimpsest/core/shape.hpp>

namespace palimpsest {

/// Calls visit(logical index, memory index) for `count` elements of a tensor from the logical index `first` on: of an
/// image batch, channels-last in memory and channels first in the logical order, which is row-major over the shape; the
/// same order in both of any other.
template <class Visit>
void for_each_element(const Shape& shape, std::int64_t first, std::int64_t count, const Visit& visit) {
  const std::int64_t channels = shape.rank() == Shape::max_rank ? shape.c() : 1;
  const std::int64_t plane = shape.count() / (shape.n() * channels);
  const std::int64_t end = first + count;
  for (std::int64_t logical = first; logical < end;) {
    const std::int64_t row = logical / plane;  // of pixels: one channel of one image
    const std::int64_t n = row / channels;
    const std::int64_t row_end = std::min(end, (row + 1) * plane);
    std::int64_t memory = (n * plane + logical % plane) * channels + row % channels;
    for (; logical < row_end; ++logical, memory += channels) visit(logical, memory);
  }
}

/// The same for all elements.
template <class Visit>
void for_each_element(const Shape& shape, const Visit& visit) {
  for_each_element(shape, 0, shape.count(), visit);
}

}  // namespace palimpsest
