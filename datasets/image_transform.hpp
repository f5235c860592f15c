#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <palimpsest/core/philox.hpp>
#include <palimpsest/datasets/image_source.hpp>
#include <palimpsest/datasets/normalisation.hpp>

namespace palimpsest::datasets {

/// Random changes to training images.
struct Augmentation {
  /// Mirror left to right with probability one half.
  bool flip = false;
  /// Pad with this many zeros on every side, then crop the old size at random: 4 for DenseNet, 2 for RevNet.
  std::int64_t pad = 0;
  /// Called last, if set, on each finished image (H, W, C), by several threads at once; must take its randomness from
  /// `random` alone. Its exceptions reach the caller of Loader::next().
  std::function<void(std::span<float> image, Random& random)> custom = {};
};

/// The place of an image's pixels: output pixel (y, x) shows stored pixel (y + down, x + right), if flipped
/// (y + down, right - x), or zero where there is none.
struct Placement {
  std::int32_t down;
  std::int32_t right;
  std::int32_t flip;  ///< 0 or 1
};

/// Makes a network's input of a stored image, in this order: normalise, pad with zeros to `pad_to` x `pad_to` (centred;
/// 0 keeps the size), flip, pad with zeros, crop. Padding is zero after normalisation.
class ImageTransform {
 public:
  /// Throws ValueError if the normalisation does not fit images of this form or has a deviation that is not positive,
  /// for `pad_to` below the image's size, and for a padding that is negative or beyond 2^24.
  ImageTransform(const ImageForm& images, const Normalisation& normalisation, std::int64_t pad_to,
                 Augmentation augmentation);

  std::int64_t channels() const { return channels_; }
  std::int64_t height() const { return height_; }
  std::int64_t width() const { return width_; }
  /// Floats of one finished image.
  std::int64_t size() const { return channels_ * height_ * width_; }

  /// pixels: (C, H, W) as stored. output: (height(), width(), C), channels fastest. Draws a placement, then calls the
  /// custom augmentation, if there is one. Thread-safe.
  void apply(const std::uint8_t* pixels, Random& random, float* output) const;

  /// The random part of it alone, for who makes the rest elsewhere: see datasets/feed.hpp. Three numbers are drawn
  /// whatever the augmentation, so that a flip does not move a crop. Thread-safe.
  Placement draw(Random& random) const;
  /// (C, 256): the normalised value of every pixel value.
  std::span<const float> values() const { return {values_.front().data(), values_.size() * 256}; }
  /// (C, h, w), as large as the stored image: what is subtracted from a pixel's value; empty if nothing is.
  std::span<const float> offsets() const { return offsets_; }

 private:
  std::int64_t channels_;
  std::int64_t source_height_;
  std::int64_t source_width_;
  std::int64_t height_;
  std::int64_t width_;
  Augmentation augmentation_;
  std::vector<std::array<float, 256>> values_;  // (C): the normalised value of every pixel value
  std::vector<float> offsets_;                  // (C, H, W): mean image over deviation; empty if there is none

  void fill_tables(const Normalisation& normalisation);
  void write_row(const std::uint8_t* pixels, std::int64_t channel, std::int64_t row, const Placement& placement,
                 float* output) const;
};

}  // namespace palimpsest::datasets
