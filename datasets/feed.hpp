#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/datasets/loader.hpp>

namespace palimpsest::datasets {

/// The form of a feed's images: all that its memory depends on.
struct FeedForm {
  ImageForm images = {};       ///< as they are read
  bool mean_image = false;     ///< one is subtracted
  LoaderOptions loading = {};  ///< `pad_to`, `workers` and `ahead` matter
};

/// The form of these images when they are loaded so.
FeedForm form_of(const ImageForm& images, const LoaderOptions& loading);

/// The device memory of a Feed to come, under Tag::Data: on a meta device, that of the device which it stands for. On
/// the CPU the ring of a Loader. On CUDA the images' values by channel (C, 256), the mean image (C, h, w) if there is
/// one, and two raw batches as RawLayout says, one that is read and one that arrives. Throws OutOfMemory.
std::vector<Buffer> feed_memory(Device device, std::int64_t batch_size, const FeedForm& form);

/// A batch that Feed::write will write.
struct FedBatch {
  std::int64_t index = 0;                 ///< in its epoch
  std::int64_t size = 0;                  ///< images
  Shape shape;                            ///< logical (size, C, H, W)
  std::span<const std::int64_t> indices;  ///< (size): the images' places in their set; valid until the next epoch
};

/// Serves the batches of a Loader where a model computes, into memory that the caller provides:
///
///     while (const auto batch = feed.next()) {
///       Tensor images = Tensor::empty(batch->shape, Dtype::Float32, device, Tag::Data);
///       Tensor labels = Tensor::empty({batch->size}, Dtype::Int32, device, Tag::Data);
///       feed.write(images.mutable_view().as<float>(), labels.mutable_view().as<std::int32_t>());
///
/// On the CPU it copies what the loader has made. On CUDA the loader serves raw batches from pinned memory, a batch is
/// uploaded while the step before it computes, and a kernel makes the images of it: the same bits, for a quarter of the
/// bytes on their way. The host waits for the device only where it is two batches ahead. Nothing is written on a meta
/// device.
class Feed {
 public:
  /// `images` must outlive the feed and must not change. Throws ValueError as Loader, and for a custom augmentation on
  /// CUDA; OutOfMemory; DeviceError. LoaderOptions::raw is the feed's own business.
  Feed(const ImageSource& images, LoaderOptions spec, Device device);
  /// The same for the images of a set.
  Feed(const ImageSet& images, LoaderOptions spec, Device device);
  /// A temporary would be gone when the loader's workers read it.
  Feed(const ImageSet&& images, LoaderOptions spec, Device device) = delete;
  Feed(const ImageSource&& images, LoaderOptions spec, Device device) = delete;
  ~Feed();

  /// As Loader::start_epoch; at any time.
  void start_epoch(std::int64_t epoch, std::int64_t first_batch = 0);
  /// As Loader::next.
  std::optional<FedBatch> next();
  /// Writes the batch that next() returned last: images (size, H, W, C), labels (size), both in the device's memory,
  /// images aligned to 16 bytes. On CUDA in the order of its kernels, without waiting. Throws StateError if there is no
  /// such batch, DeviceError.
  void write(float* images, std::int32_t* labels) const;

  Device device() const { return device_; }
  /// Batches in an epoch.
  std::int64_t batches() const { return loader_.batches(); }
  /// The logical shape of a whole batch.
  Shape shape() const { return loader_.shape(); }

 private:
  class Card;

  void use_card(const LoaderOptions& spec);

  Device device_;
  Loader loader_;
  std::optional<Batch> batch_;  // that next() returned last
  std::unique_ptr<Card> card_;  // on CUDA; last, so that no copy from the loader's memory outlives that
};

}  // namespace palimpsest::datasets
