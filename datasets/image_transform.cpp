#include <palimpsest/datasets/image_transform.hpp>

#include <algorithm>
#include <utility>

#include <palimpsest/core/error.hpp>

namespace palimpsest::datasets {
namespace {

constexpr std::int64_t largest_extent = std::int64_t{1} << 24;  // a Placement's numbers are sums of a few

void expect_length(std::string_view what, const std::vector<float>& values, std::int64_t expected) {
  if (values.empty() || values.size() == static_cast<std::size_t>(expected)) return;
  throw ValueError(concat_text("normalisation: ", what, " has ", values.size(), " values, expected ", expected));
}

void check(const ImageForm& images, const Normalisation& normalisation, std::int64_t pad_to, std::int64_t pad) {
  expect_length("mean", normalisation.mean, images.channels);
  expect_length("deviation", normalisation.deviation, images.channels);
  expect_length("mean_image", normalisation.mean_image, images.size());
  for (const float deviation : normalisation.deviation) {
    if (!(deviation > 0.0F))
      throw ValueError(concat_text("normalisation: deviation must be positive, got ", deviation));
  }
  if (pad_to != 0 && pad_to < std::max(images.height, images.width)) {
    throw ValueError(concat_text("images of ", images.height, "x", images.width, " cannot be padded to ", pad_to));
  }
  if (pad < 0) throw ValueError(concat_text("augmentation: pad must not be negative, got ", pad));
  if (std::max({pad, pad_to, images.height, images.width}) > largest_extent) {
    throw ValueError(concat_text("images and paddings may have up to ", largest_extent, " pixels a side"));
  }
}

}  // namespace

ImageTransform::ImageTransform(const ImageForm& images, const Normalisation& normalisation, std::int64_t pad_to,
                               Augmentation augmentation)
    : channels_(images.channels),
      source_height_(images.height),
      source_width_(images.width),
      height_(pad_to != 0 ? pad_to : images.height),
      width_(pad_to != 0 ? pad_to : images.width),
      augmentation_(std::move(augmentation)) {
  check(images, normalisation, pad_to, augmentation_.pad);
  fill_tables(normalisation);
}

void ImageTransform::fill_tables(const Normalisation& normalisation) {
  const auto [mean, deviation, mean_image] = normalisation;
  const std::int64_t plane = source_height_ * source_width_;
  values_.resize(static_cast<std::size_t>(channels_));
  offsets_ = mean_image;
  for (std::int64_t c = 0; c < channels_; ++c) {
    const float centre = mean.empty() ? 0.0F : mean[c];
    const float scale = deviation.empty() ? 1.0F : deviation[c];
    for (int v = 0; v < 256; ++v) values_[c][v] = (static_cast<float>(v) - centre) / scale;
    if (!offsets_.empty()) {
      for (std::int64_t p = c * plane; p < (c + 1) * plane; ++p) offsets_[p] /= scale;
    }
  }
}

Placement ImageTransform::draw(Random& random) const {
  const std::int64_t pad = augmentation_.pad;
  const auto choices = static_cast<std::uint64_t>(2 * pad + 1);
  const bool heads = random.bits() % 2 != 0;
  const auto down = static_cast<std::int64_t>(random.below(choices)) - pad;
  const auto right = static_cast<std::int64_t>(random.below(choices)) - pad;
  const std::int64_t top = (height_ - source_height_) / 2;
  const std::int64_t left = (width_ - source_width_) / 2;
  const bool flip = augmentation_.flip && heads;
  return {static_cast<std::int32_t>(down - top),
          static_cast<std::int32_t>(flip ? width_ - 1 - right - left : right - left), flip ? 1 : 0};
}

void ImageTransform::apply(const std::uint8_t* pixels, Random& random, float* output) const {
  const Placement placement = draw(random);
  std::fill(output, output + size(), 0.0F);
  for (std::int64_t y = 0; y < height_; ++y) {
    const std::int64_t row = y + placement.down;
    if (row < 0 || row >= source_height_) continue;
    for (std::int64_t c = 0; c < channels_; ++c) {
      write_row(pixels, c, row, placement, output + y * width_ * channels_ + c);
    }
  }
  if (augmentation_.custom) augmentation_.custom({output, static_cast<std::size_t>(size())}, random);
}

void ImageTransform::write_row(const std::uint8_t* pixels, std::int64_t channel, std::int64_t row,
                               const Placement& placement, float* output) const {
  const std::int64_t right = placement.right;
  const bool flip = placement.flip != 0;
  const std::int64_t first = std::max<std::int64_t>(0, flip ? right - source_width_ + 1 : -right);
  const std::int64_t end = std::min(width_, flip ? right + 1 : source_width_ - right);
  const std::int64_t step = flip ? -1 : 1;
  const std::int64_t start = (channel * source_height_ + row) * source_width_ + right;
  const std::array<float, 256>& values = values_[channel];
  if (offsets_.empty()) {
    for (std::int64_t x = first; x < end; ++x) output[x * channels_] = values[pixels[start + x * step]];
  } else {
    for (std::int64_t x = first; x < end; ++x) {
      const std::int64_t source = start + x * step;
      output[x * channels_] = values[pixels[source]] - offsets_[source];
    }
  }
}

}  // namespace palimpsest::datasets
