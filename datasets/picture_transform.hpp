#pragma once

#include <cstdint>

#include <palimpsest/core/philox.hpp>
#include <palimpsest/datasets/image_source.hpp>
#include <palimpsest/datasets/picture.hpp>
#include <palimpsest/datasets/resize.hpp>

namespace palimpsest::datasets {

/// How a picture of any size becomes an image of `size` x `size` pixels, or several of them, one below the other.
struct PictureTransform {
  std::int64_t size = 224;
  /// Training's random changes, as networks for ImageNet are trained (Szegedy et al. 2015, "Going Deeper with
  /// Convolutions", section 6; Krizhevsky et al. 2012, section 4.1): a random part of the picture, its mirror image in
  /// one of two, colour jitter and lighting. Without them the middle: the shorter side to `shorter_side`, then a crop.
  bool augment = false;
  /// Without `augment`: 1, or 10 for a better prediction (Krizhevsky et al. 2012, section 4.1): the middle and the
  /// corners, then the mirror images of these five.
  std::int64_t crops = 1;
  double smallest_area = 0.08;     ///< share of the picture
  double largest_ratio = 4.0 / 3;  ///< of width to height, or of height to width
  /// Brightness, contrast and saturation, in random order, each by a factor from 1 - jitter to 1 + jitter.
  double jitter = 0.4;
  /// Standard deviation of the weights of the colours' principal components that are added.
  double lighting = 0.1;

  /// 3 channels, (crops * size, size).
  ImageForm form() const { return {3, crops * size, size}; }
  /// 256 for 224, and in proportion.
  std::int64_t shorter_side() const { return (size * 256 + 112) / 224; }
};

/// Length over width of what with_shorter_side() leaves at most.
inline constexpr std::int64_t longest_ratio = 16;

/// The part of a picture of this size that training shows: up to ten tries for a rectangle of a random area and a
/// random ratio, uniform in its logarithm, that lies inside; else the largest one of an allowed ratio, in the middle.
Box random_box(std::int64_t height, std::int64_t width, const PictureTransform& how, Random& random);

/// The picture with its shorter side as long as given, the longer one in proportion, rounded down. A picture that is
/// more than `longest_ratio` times as long as it is wide leaves its middle: no more of it can come into a crop.
Picture with_shorter_side(const Picture& picture, std::int64_t side);

/// The place where a crop of this size begins along a side: in the middle, halves to the even one.
std::int64_t centred(std::int64_t side, std::int64_t size);

/// Writes the image, (3, crops * size, size). Throws ValueError for a size that is not positive, and for a number of
/// crops that is not 1, or 10 without `augment`.
void apply(const PictureTransform& how, const Picture& picture, Random& random, std::uint8_t* pixels);

}  // namespace palimpsest::datasets
