#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/shape.hpp>
#include <palimpsest/datasets/image_source.hpp>
#include <palimpsest/datasets/image_transform.hpp>
#include <palimpsest/datasets/normalisation.hpp>

namespace palimpsest::datasets {

/// How a Loader makes batches.
struct LoaderOptions {
  std::int64_t batch_size = 64;
  std::uint64_t seed = 0;
  /// Another order in every epoch; otherwise the set's own.
  bool shuffle = true;
  /// Leave out the last batch of an epoch if it is smaller than the others.
  bool drop_last = false;
  Normalisation normalisation = {};
  /// Pad with zeros to this height and width, centred (32 for Fashion-MNIST in a CIFAR model); 0 keeps the size.
  std::int64_t pad_to = 0;
  Augmentation augmentation = {};
  /// Serve pixels as they are stored, with what was drawn for them, instead of finished images: see Batch and
  /// datasets/feed.hpp. Not with a custom augmentation.
  bool raw = false;
  /// Threads that prepare batches; with 0 next() does it.
  int workers = 1;
  /// Batches that the workers may be ahead of the caller.
  int ahead = 2;
};

/// A batch in the loader's memory, valid until the loader's next call.
struct Batch {
  std::int64_t index = 0;                 ///< in its epoch
  std::int64_t size = 0;                  ///< images
  Shape shape;                            ///< logical (size, C, H, W) of the finished images
  const float* images = nullptr;          ///< channels-last: (size, H, W, C), contiguous; null if raw
  const std::int32_t* labels = nullptr;   ///< (size): as ImageSource::label() has them once the image is read
  std::span<const std::int64_t> indices;  ///< (size): the images' places in their set
  std::span<const std::byte> raw;         ///< all of a raw batch, laid out as RawLayout says; else empty
};

/// How a raw batch lies in memory, so that one copy takes it: labels (capacity) int32, placements (capacity) and pixels
/// (capacity, C, h, w) as stored. A smaller batch leaves gaps.
struct RawLayout {
  RawLayout(std::int64_t capacity, std::int64_t image_size);

  std::size_t placements;  ///< offset in bytes
  std::size_t pixels;      ///< offset in bytes
  std::size_t bytes;
};

/// Serves the batches of a source of images, epoch after epoch. The order is a function of (seed, epoch), an image's
/// augmentation of (seed, epoch, place in the set): neither depends on the workers, their timing or the batch size.
/// The memory for all batches is taken once, in the constructor, under Tag::Data. For one calling thread.
class Loader {
 public:
  /// `images` must outlive the loader and must not change. Throws ValueError for a source or a spec that makes no
  /// sense, OutOfMemory if the batches do not fit.
  Loader(const ImageSource& images, LoaderOptions spec);
  /// The same for the images of a set.
  Loader(const ImageSet& images, LoaderOptions spec);
  /// A temporary would be gone when the workers read it.
  Loader(const ImageSet&& images, LoaderOptions spec) = delete;
  Loader(const ImageSource&& images, LoaderOptions spec) = delete;
  /// Stops and joins the workers, at any time.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Begins an epoch at one of its batches; what was left of the last one is dropped. Throws ValueError unless
  /// 0 <= epoch < 2^32 and 0 <= first_batch <= batches().
  void start_epoch(std::int64_t epoch, std::int64_t first_batch = 0);

  /// The next batch, none at the end of the epoch. Throws StateError before the first start_epoch, and again what the
  /// making of this batch threw, until the next start_epoch.
  std::optional<Batch> next();

  /// Bytes that a loader takes for its ring of finished batches, each image of so many elements.
  static std::size_t ring_bytes(std::int64_t batch_size, std::int64_t image_elements, const LoaderOptions& spec);

  /// Batches in an epoch.
  std::int64_t batches() const { return batches_; }
  /// The logical shape of a whole batch.
  Shape shape() const { return batch_shape(batch_size_); }
  /// The form of the images as they are read.
  const ImageForm& form() const { return form_; }
  /// The transform from such an image to an input of the network.
  const ImageTransform& transform() const { return transform_; }
  /// Bytes held for batches.
  std::size_t bytes() const { return memory_.bytes(); }
  /// The memory of all batches. If they are raw, nothing else lies in the same pages, so that these can be pinned.
  std::span<std::byte> ring() const { return {ring_, slots_.size() * slot_bytes_}; }

 private:
  struct Slot {
    std::int64_t batch = -1;  // the batch it holds, or whose making failed
    std::exception_ptr error;
  };
  /// The parts of a slot's memory.
  struct Parts {
    std::int32_t* labels;
    float* images;          // or, if raw,
    Placement* placements;  // these
    std::uint8_t* pixels;
  };

  std::unique_ptr<const ImageSource> stored_;  // of a set
  const ImageSource& images_;
  ImageForm form_;
  std::int64_t count_;
  LoaderOptions spec_;
  ImageTransform transform_;
  std::int64_t batch_size_ = 0;
  std::int64_t batches_ = 0;
  std::uint64_t key_ = 0;
  std::vector<std::int64_t> order_;
  std::vector<Slot> slots_;
  RawLayout layout_;
  Buffer memory_;
  std::byte* ring_ = nullptr;  // in it
  std::size_t slot_bytes_ = 0;

  std::mutex mutex_;                  // guards what follows
  std::condition_variable_any work_;  // there may be a batch to make
  std::condition_variable changed_;   // a worker has finished one
  std::int64_t epoch_ = -1;
  std::int64_t next_ = 0;     // the batch that next() will return
  std::int64_t oldest_ = 0;   // the first batch whose slot is in use
  std::int64_t claimed_ = 0;  // the first batch that no worker has taken on
  int active_ = 0;            // workers that are making a batch

  std::vector<std::jthread> workers_;  // last, so that they end first

  Loader(std::unique_ptr<const ImageSource> stored, const ImageSource* images, LoaderOptions spec);
  void check() const;
  void allocate_slots();
  void arrange(std::int64_t epoch);
  Slot& slot_of(std::int64_t batch) { return slots_[batch % slots_.size()]; }
  std::byte* memory_of(std::int64_t batch) const { return ring_ + batch % slots_.size() * slot_bytes_; }
  Parts parts_of(std::int64_t batch) const;
  Shape batch_shape(std::int64_t size) const;
  std::int64_t size_of_batch(std::int64_t batch) const;
  std::uint64_t stream(std::int64_t index) const;
  /// Room for an image as it is read; none for raw batches, whose place it is read to.
  std::vector<std::uint8_t> scratch() const {
    return std::vector<std::uint8_t>(spec_.raw ? 0 : static_cast<std::size_t>(form_.size()));
  }
  void fill(std::int64_t batch, std::vector<std::uint8_t>& read);
  std::exception_ptr try_fill(std::int64_t batch, std::vector<std::uint8_t>& read);
  void work(const std::stop_token& stop, std::vector<std::uint8_t>& read);
  Batch view(std::int64_t batch) const;
};

}  // namespace palimpsest::datasets
