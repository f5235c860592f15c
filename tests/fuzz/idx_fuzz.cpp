// Any bytes as a pair of idx files: read, or refused with a DataError. The first two bytes are the length of the file
// of images; the labels follow it.

#include <palimpsest/datasets/idx.hpp>

#include <algorithm>

#include <palimpsest/core/error.hpp>
#include "tests/fuzz/input.hpp"

using namespace palimpsest;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t length_bytes = 2;
  if (size < length_bytes) return 0;
  const std::string_view rest = fuzz::text_of(data, size).substr(length_bytes);
  const std::size_t length = std::min<std::size_t>(rest.size(), data[0] + 256U * data[1]);
  const fuzz::MemoryFile images(rest.substr(0, length)), labels(rest.substr(length));
  try {
    const datasets::ImageSet set = datasets::read_idx(images.path(), labels.path(), 10);
    fuzz::require(static_cast<std::size_t>(set.count) == set.labels.size());
    fuzz::require(set.pixels.size() == static_cast<std::size_t>(set.count * set.channels * set.height * set.width));
    for (const auto label : set.labels) fuzz::require(label < 10);
  } catch (const DataError&) {
  }
  return 0;
}
