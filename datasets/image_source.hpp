#pragma once

#include <cstdint>
#include <memory>

#include <palimpsest/core/philox.hpp>
#include <palimpsest/datasets/image_set.hpp>

namespace palimpsest::datasets {

/// The size that all images of a source have.
struct ImageForm {
  std::int64_t channels = 3;
  std::int64_t height = 0;
  std::int64_t width = 0;

  /// Bytes of one image.
  std::int64_t size() const { return channels * height * width; }
};

/// The label of an image that could not be read: it counts for nothing in an evaluation.
constexpr std::int32_t no_label = -1;

/// Labelled 8-bit images that a Loader reads one at a time, from wherever they are.
class ImageSource {
 public:
  virtual ~ImageSource() = default;

  virtual std::int64_t count() const = 0;
  virtual std::int64_t classes() const = 0;
  virtual ImageForm form() const = 0;
  /// In [0, classes()), or no_label where a source has found, in read(), that it has no such image.
  virtual std::int32_t label(std::int64_t index) const = 0;
  /// Writes the pixels of an image, (C, H, W) as form() says. All that is random in them comes from `random` alone, so
  /// that the same stream gives the same pixels. Called by several threads at once. Throws DataError, naming the image,
  /// if it cannot be read.
  virtual void read(std::int64_t index, Random& random, std::uint8_t* pixels) const = 0;
};

/// The images of a set as a source.
class StoredImages : public ImageSource {
 public:
  /// The set must outlive this and must not change. Throws ValueError for a set that makes no sense (validate()).
  explicit StoredImages(const ImageSet& images);
  explicit StoredImages(std::shared_ptr<const ImageSet> images);
  /// A temporary would be gone when it is read.
  explicit StoredImages(const ImageSet&& images) = delete;

  std::int64_t count() const override { return images_->count; }
  std::int64_t classes() const override { return images_->classes; }
  ImageForm form() const override { return {images_->channels, images_->height, images_->width}; }
  std::int32_t label(std::int64_t index) const override { return images_->labels[static_cast<std::size_t>(index)]; }
  void read(std::int64_t index, Random& random, std::uint8_t* pixels) const override;

 private:
  std::shared_ptr<const ImageSet> images_;
};

}  // namespace palimpsest::datasets
