#pragma once

#include <cstdint>

#include <palimpsest/datasets/image_set.hpp>

namespace palimpsest::datasets {

/// The images that synthetic() makes.
struct SyntheticOptions {
  std::int64_t count = 4096;
  std::int64_t channels = 3;
  std::int64_t height = 32;
  std::int64_t width = 32;
  std::int64_t classes = 10;
  std::uint64_t seed = 0;
};

/// Images that can be learned: each class is a smooth random pattern, each image its class's pattern shifted by up to
/// an eighth of the size, with its own contrast and noise. Image i belongs to class i mod classes. A pure function of
/// its arguments, the same bytes everywhere; both splits show the same patterns, and the first images of a larger set
/// are those of a smaller one. Throws ValueError for a size that is not positive.
ImageSet synthetic(const SyntheticOptions& spec, Split split = Split::Train);

}  // namespace palimpsest::datasets
