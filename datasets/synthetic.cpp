#include <palimpsest/datasets/synthetic.hpp>

#include <algorithm>
#include <array>

#include <palimpsest/core/error.hpp>
#include <palimpsest/core/philox.hpp>

namespace palimpsest::datasets {
namespace {

// Integer arithmetic only, so that no compiler or machine makes other images.
constexpr std::int64_t grid = 4;
constexpr int grey = 128;

/// The levels of one channel of a class at the points of a torus; between them they are interpolated.
using Pattern = std::array<int, grid * grid>;

std::vector<Pattern> make_patterns(const SyntheticOptions& spec) {
  Random random(spec.seed);
  std::vector<Pattern> patterns(static_cast<std::size_t>(spec.classes * spec.channels));
  for (Pattern& pattern : patterns) {
    for (int& level : pattern) level = static_cast<int>(random.bits() & 255U) - grey;
  }
  return patterns;
}

/// A coordinate on the torus: between the points `low` and `high`, `fraction` / 256 of the way.
struct Coordinate {
  std::int64_t low;
  std::int64_t high;
  int fraction;

  Coordinate(std::int64_t position, std::int64_t size) {
    const std::int64_t scaled = position % size * grid * 256 / size;
    low = scaled / 256;
    high = (low + 1) % grid;
    fraction = static_cast<int>(scaled % 256);
  }
};

int mix(int low, int high, int fraction) { return (low * (256 - fraction) + high * fraction) / 256; }

int level_at(const Pattern& pattern, const Coordinate& y, const Coordinate& x) {
  const int top = mix(pattern[y.low * grid + x.low], pattern[y.low * grid + x.high], x.fraction);
  const int bottom = mix(pattern[y.high * grid + x.low], pattern[y.high * grid + x.high], x.fraction);
  return mix(top, bottom, y.fraction);
}

/// The difference between an image and others of its class.
struct Variation {
  std::int64_t down;
  std::int64_t right;
  int contrast;  // in 256ths

  Variation(const SyntheticOptions& spec, Random& random)
      : down(random.bits() % (spec.height / 8 + 1)),
        right(random.bits() % (spec.width / 8 + 1)),
        contrast(160 + static_cast<int>(random.bits() % 96)) {}
};

void draw_plane(const SyntheticOptions& spec, const Pattern& pattern, const Variation& variation, Random& random,
                std::vector<std::uint8_t>& pixels) {
  std::vector<Coordinate> columns;
  for (std::int64_t w = 0; w < spec.width; ++w) columns.emplace_back(w + variation.right, spec.width);
  for (std::int64_t h = 0; h < spec.height; ++h) {
    const Coordinate y(h + variation.down, spec.height);
    for (const Coordinate& x : columns) {
      const int noise = static_cast<int>(random.bits() & 63U) - 32;
      const int value = grey + level_at(pattern, y, x) * variation.contrast / 256 + noise;
      pixels.push_back(static_cast<std::uint8_t>(std::clamp(value, 0, 255)));
    }
  }
}

void check(const SyntheticOptions& spec) {
  if (std::min({spec.count, spec.channels, spec.height, spec.width, spec.classes}) < 1) {
    throw ValueError(concat_text("synthetic images need positive sizes, got ", spec.count, " images of ", spec.channels,
                                 "x", spec.height, "x", spec.width, " in ", spec.classes, " classes"));
  }
}

}  // namespace

ImageSet synthetic(const SyntheticOptions& spec, Split split) {
  check(spec);
  ImageSet set{spec.count, spec.channels, spec.height, spec.width, spec.classes};
  set.pixels.reserve(static_cast<std::size_t>(set.count * set.image_size()));
  const std::vector<Pattern> patterns = make_patterns(spec);
  for (std::int64_t i = 0; i < spec.count; ++i) {
    const std::int64_t label = i % spec.classes;
    const auto stream = static_cast<std::uint64_t>(1 + 2 * i + (split == Split::Test ? 1 : 0));
    Random random(spec.seed, stream);
    const Variation variation(spec, random);
    for (std::int64_t c = 0; c < spec.channels; ++c) {
      draw_plane(spec, patterns[label * spec.channels + c], variation, random, set.pixels);
    }
    set.labels.push_back(static_cast<std::int32_t>(label));
  }
  return set;
}

}  // namespace palimpsest::datasets
