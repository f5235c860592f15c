#include <palimpsest/datasets/normalisation.hpp>

#include <array>
#include <cmath>

namespace palimpsest::datasets {
namespace {

/// How often each pixel value occurs in one channel of a set.
std::array<std::int64_t, 256> histogram(const ImageSet& images, std::int64_t channel) {
  std::array<std::int64_t, 256> counts{};
  const std::int64_t plane = images.height * images.width;
  for (std::int64_t i = 0; i < images.count; ++i) {
    const std::uint8_t* const pixels = images.image(i) + channel * plane;
    for (std::int64_t p = 0; p < plane; ++p) ++counts[pixels[p]];
  }
  return counts;
}

}  // namespace

Normalisation cifar10_normalisation() { return {{125.3F, 123.0F, 113.9F}, {63.0F, 62.1F, 66.7F}}; }

Normalisation cifar100_normalisation() { return {{129.3F, 124.1F, 112.4F}, {68.2F, 65.4F, 70.4F}}; }

Normalisation fashion_mnist_normalisation() { return {{0.28604F * 255.0F}, {0.35302F * 255.0F}}; }

Normalisation measure_channels(const ImageSet& training) {
  validate(training);
  const auto total = static_cast<double>(training.count * training.height * training.width);
  Normalisation result;
  for (std::int64_t c = 0; c < training.channels; ++c) {
    const std::array<std::int64_t, 256> counts = histogram(training, c);
    double mean = 0.0;
    for (int v = 0; v < 256; ++v) mean += static_cast<double>(counts[v]) / total * v;
    double variance = 0.0;
    for (int v = 0; v < 256; ++v) variance += static_cast<double>(counts[v]) / total * (v - mean) * (v - mean);
    result.mean.push_back(static_cast<float>(mean));
    result.deviation.push_back(variance > 0.0 ? static_cast<float>(std::sqrt(variance)) : 1.0F);
  }
  return result;
}

Normalisation measure_mean_image(const ImageSet& training) {
  validate(training);
  const std::int64_t size = training.image_size();
  std::vector<std::int64_t> sums(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < training.count; ++i) {
    const std::uint8_t* const pixels = training.image(i);
    for (std::int64_t p = 0; p < size; ++p) sums[p] += pixels[p];
  }
  Normalisation result;
  for (const std::int64_t sum : sums) {
    result.mean_image.push_back(static_cast<float>(static_cast<double>(sum) / static_cast<double>(training.count)));
  }
  return result;
}

}  // namespace palimpsest::datasets
