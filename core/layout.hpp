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
  if (channels == 1 || plane == 1) {
    for (std::int64_t logical = first; logical < end; ++logical) visit(logical, logical);
    return;
  }
  std::int64_t n = first / plane / channels;
  std::int64_t channel = first / plane % channels;
  std::int64_t pixel = first % plane;
  for (std::int64_t logical = first; logical < end; pixel = 0) {
    const std::int64_t row_end = std::min(end, logical + plane - pixel);  // one channel of one image
    std::int64_t memory = (n * plane + pixel) * channels + channel;
    for (; logical < row_end; ++logical, memory += channels) visit(logical, memory);
    if (++channel < channels) continue;
    channel = 0;
    ++n;
  }
}

/// The same for all elements.
template <class Visit>
void for_each_element(const Shape& shape, const Visit& visit) {
  for_each_element(shape, 0, shape.count(), visit);
}

}  // namespace palimpsest
