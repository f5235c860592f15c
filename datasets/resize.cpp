#include <palimpsest/datasets/resize.hpp>

#include <algorithm>
#include <vector>

#include <palimpsest/core/error.hpp>

namespace palimpsest::datasets {
namespace {

constexpr int fixed_bits = 22;
constexpr std::int32_t half = std::int32_t{1} << (fixed_bits - 1);
constexpr std::int64_t channels = 3;

/// The pixels that each pixel of a line in another size is a mean of.
class Taps {
 public:
  Taps(std::int64_t from, std::int64_t to) {
    const double scale = static_cast<double>(from) / static_cast<double>(to);
    const double support = std::max(scale, 1.0);
    const double narrowing = 1.0 / support;  // a factor, as in Pillow: a division would round otherwise
    std::vector<double> weights;
    for (std::int64_t x = 0; x < to; ++x) {
      const double centre = (static_cast<double>(x) + 0.5) * scale;
      const std::int64_t first = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - support + 0.5));
      const std::int64_t last = std::min(from, static_cast<std::int64_t>(centre + support + 0.5));
      weights.clear();
      double sum = 0;
      for (std::int64_t i = first; i < last; ++i) {
        const double distance = (static_cast<double>(i) - centre + 0.5) * narrowing;
        weights.push_back(std::max(0.0, 1.0 - std::max(distance, -distance)));
        sum += weights.back();
      }
      first_.push_back(first);
      offsets_.push_back(static_cast<std::int64_t>(weights_.size()));
      for (const double weight : weights) {
        weights_.push_back(static_cast<std::int32_t>(0.5 + weight / sum * (1 << fixed_bits)));
      }
    }
    offsets_.push_back(static_cast<std::int64_t>(weights_.size()));
  }

  /// The first pixel of the mean, and how many there are from it on.
  std::int64_t first(std::int64_t x) const { return first_[static_cast<std::size_t>(x)]; }
  std::int64_t count(std::int64_t x) const {
    return offsets_[static_cast<std::size_t>(x) + 1] - offsets_[static_cast<std::size_t>(x)];
  }
  const std::int32_t* weights(std::int64_t x) const { return weights_.data() + offsets_[static_cast<std::size_t>(x)]; }

 private:
  std::vector<std::int64_t> first_;
  std::vector<std::int64_t> offsets_;
  std::vector<std::int32_t> weights_;
};

std::uint8_t byte_of(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> fixed_bits, std::int32_t{0}, std::int32_t{255}));
}

void resize_row(const std::uint8_t* from, const Taps& taps, std::int64_t width, std::uint8_t* to) {
  for (std::int64_t x = 0; x < width; ++x, to += channels) {
    const std::uint8_t* pixel = from + taps.first(x) * channels;
    const std::int32_t* const weights = taps.weights(x);
    const std::int64_t count = taps.count(x);
    std::int32_t red = half;
    std::int32_t green = half;
    std::int32_t blue = half;
    for (std::int64_t i = 0; i < count; ++i, pixel += channels) {
      red += weights[i] * pixel[0];
      green += weights[i] * pixel[1];
      blue += weights[i] * pixel[2];
    }
    to[0] = byte_of(red);
    to[1] = byte_of(green);
    to[2] = byte_of(blue);
  }
}

/// A row of means over `count` rows, which begin at `from` and are `stride` bytes apart. `sums`: as many as bytes.
void mean_of_rows(const std::uint8_t* from, std::int64_t stride, const std::int32_t* weights, std::int64_t count,
                  std::int64_t bytes, std::int32_t* sums, std::uint8_t* to) {
  std::fill_n(sums, bytes, half);
  for (std::int64_t i = 0; i < count; ++i, from += stride) {
    for (std::int64_t x = 0; x < bytes; ++x) sums[x] += weights[i] * from[x];
  }
  for (std::int64_t x = 0; x < bytes; ++x) to[x] = byte_of(sums[x]);
}

Picture crop(const Picture& picture, const Box& box) {
  Picture cropped{box.height, box.width,
                  std::vector<std::uint8_t>(static_cast<std::size_t>(box.height * box.width * channels))};
  for (std::int64_t y = 0; y < box.height; ++y) {
    std::copy_n(picture.pixels.data() + ((box.top + y) * picture.width + box.left) * channels, box.width * channels,
                cropped.pixels.data() + y * box.width * channels);
  }
  return cropped;
}

Picture resize_rows(const Picture& picture, const Box& box, std::int64_t width) {
  const Taps taps(box.width, width);
  Picture narrow{box.height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(box.height * width * channels))};
  for (std::int64_t y = 0; y < box.height; ++y) {
    resize_row(picture.pixels.data() + ((box.top + y) * picture.width + box.left) * channels, taps, width,
               narrow.pixels.data() + y * width * channels);
  }
  return narrow;
}

Picture resize_columns(const Picture& picture, std::int64_t height) {
  const Taps taps(picture.height, height);
  const std::int64_t bytes = picture.width * channels;
  Picture low{height, picture.width, std::vector<std::uint8_t>(static_cast<std::size_t>(height * bytes))};
  std::vector<std::int32_t> sums(static_cast<std::size_t>(bytes));
  for (std::int64_t y = 0; y < height; ++y) {
    mean_of_rows(picture.pixels.data() + taps.first(y) * bytes, bytes, taps.weights(y), taps.count(y), bytes,
                 sums.data(), low.pixels.data() + y * bytes);
  }
  return low;
}

}  // namespace

Picture resize(const Picture& picture, const Box& box, std::int64_t height, std::int64_t width) {
  const bool inside = box.top >= 0 && box.left >= 0 && box.height > 0 && box.width > 0 &&
                      box.height <= picture.height - box.top && box.width <= picture.width - box.left;
  if (!inside || height < 1 || width < 1) {
    throw ValueError(concat_text("resize: ", box.height, "x", box.width, " pixels from (", box.top, ", ", box.left,
                                 ") of ", picture.height, "x", picture.width, " to ", height, "x", width));
  }
  Picture narrow = width == box.width ? crop(picture, box) : resize_rows(picture, box, width);
  return height == box.height ? narrow : resize_columns(narrow, height);
}

Picture resize(const Picture& picture, std::int64_t height, std::int64_t width) {
  return resize(picture, {0, 0, picture.height, picture.width}, height, width);
}

}  // namespace palimpsest::datasets
