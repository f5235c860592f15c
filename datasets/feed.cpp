#include <palimpsest/datasets/feed.hpp>

#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/core/kernel.hpp>
#include <palimpsest/datasets/image_transform_kernels.hpp>

namespace palimpsest::datasets {
namespace {

LoaderOptions spec_for(LoaderOptions spec, Device device) {
  if (device == Device::Cuda && spec.augmentation.custom) {
    throw ValueError("feed: a custom augmentation cannot run on cuda; make the batches with a Loader, on the host");
  }
  spec.raw = device == Device::Cuda;
  return spec;
}

}  // namespace

FeedForm form_of(const ImageForm& images, const LoaderOptions& loading) {
  return {images, !loading.normalisation.mean_image.empty(), loading};
}

std::vector<Buffer> feed_memory(Device device, std::int64_t batch_size, const FeedForm& form) {
  std::vector<Buffer> memory;
  const auto take = [&](std::size_t bytes) { memory.emplace_back(device, bytes, Tag::Data); };
  const std::int64_t stored = form.images.size();
  if (kernel_device(device) == Device::Cuda) {
    take(static_cast<std::size_t>(form.images.channels) * 256 * sizeof(float));
    if (form.mean_image) take(static_cast<std::size_t>(stored) * sizeof(float));
    for (int batch = 0; batch < 2; ++batch) take(RawLayout(batch_size, stored).bytes);
  } else {
    const std::int64_t side = form.loading.pad_to;
    take(Loader::ring_bytes(batch_size, side > 0 ? form.images.channels * side * side : stored, form.loading));
  }
  return memory;
}

/// The way of a raw batch on CUDA: loader's ring, pinned -> copy stream -> one of two buffers -> kernel -> caller.
/// Nothing is overwritten while it is read:
///
/// - The slot of the ring that is being uploaded belongs to the loader again at its next call, so before that the host
///   waits for the copy (fetch). It was ordered when the batch before was served, a whole step ago.
/// - A batch goes to the buffer that the last batch but one came from. All kernels that read that one were launched
///   before the upload begins, and Upload::begin lets the copies wait for them. It is not the buffer that the step to
///   come reads, so that the upload runs beside that step.
/// - A kernel that reads a buffer comes after Upload::use, and so after the copy into it, whether or not the host has
///   waited for that copy by then.
/// - The destination of write() is the caller's. A tensor's memory is its own until the last handle goes; then its next
///   owner writes it later in the order of the same kernels. No copy of another stream goes there.
class Feed::Card {
 public:
  Card(const LoaderOptions& spec, Loader& loader)
      : loader_(loader),
        sizes_{loader.form().channels, loader.form().height, loader.form().width, loader.shape().h(),
               loader.shape().w()},
        layout_(loader.shape().n(), loader.form().size()),
        memory_(feed_memory(Device::Cuda, loader.shape().n(), form_of(loader.form(), spec))),
        pinned_(loader.ring().data(), loader.ring().size()),
        upload_(make_upload()) {
    const ImageTransform& transform = loader.transform();
    fill(values(), transform.values());
    if (offsets() != nullptr) fill(*offsets(), transform.offsets());
  }

  void start_epoch(std::int64_t epoch, std::int64_t first_batch) {
    upload_->wait();
    loader_.start_epoch(epoch, first_batch);
    coming_.reset();
    fetch();
  }

  /// The next batch, in buffer(current_), and on the way there the one after it.
  std::optional<Batch> next() {
    if (!coming_) fetch();  // before the first epoch, or behind the last batch
    if (!coming_) return std::nullopt;
    const std::optional<Batch> batch = coming_;
    upload_->use();
    current_ = 1 - current_;
    fetch();
    return batch;
  }

  void write(const Batch& batch, float* images, std::int32_t* labels) const;

 private:
  Loader& loader_;
  kernels::ImageSizes sizes_;
  RawLayout layout_;
  std::vector<Buffer> memory_;  // as feed_memory() says
  Pinned pinned_;
  int current_ = 0;                 // the buffer that is read
  std::optional<Batch> coming_;     // to the other one
  std::unique_ptr<Upload> upload_;  // last: it waits for its copies when it goes

  const Buffer& values() const { return memory_.front(); }
  const Buffer* offsets() const { return memory_.size() > 3 ? &memory_[1] : nullptr; }
  const Buffer& buffer(int which) const { return memory_[memory_.size() - 2 + static_cast<std::size_t>(which)]; }

  static void fill(const Buffer& to, std::span<const float> values) {
    copy_bytes(to.data(), to.device(), values.data(), Device::Cpu, values.size_bytes());
  }

  void fetch() {
    upload_->wait();
    coming_ = loader_.next();
    if (!coming_) return;
    upload_->begin();
    upload_->copy(buffer(1 - current_).data(), coming_->raw.data(), layout_.bytes);
    upload_->end();
  }
};

void Feed::Card::write(const Batch& batch, float* images, std::int32_t* labels) const {
  if constexpr (compiled_for_cuda) {
    const auto* const raw = buffer(current_).as<std::byte>();
    kernels::gpu::transform_images(batch.size, sizes_, reinterpret_cast<const std::uint8_t*>(raw + layout_.pixels),
                                   reinterpret_cast<const Placement*>(raw + layout_.placements), values().as<float>(),
                                   offsets() != nullptr ? offsets()->as<float>() : nullptr, images);
    copy_bytes(labels, Device::Cuda, raw, Device::Cuda, static_cast<std::size_t>(batch.size) * sizeof(std::int32_t));
  }
}

Feed::Feed(const ImageSource& images, LoaderOptions spec, Device device)
    : device_(device), loader_(images, spec_for(spec, device)) {
  use_card(spec);
}

Feed::Feed(const ImageSet& images, LoaderOptions spec, Device device)
    : device_(device), loader_(images, spec_for(spec, device)) {
  use_card(spec);
}

void Feed::use_card(const LoaderOptions& spec) {
  if (device_ == Device::Cuda) card_ = std::make_unique<Card>(spec, loader_);
}

Feed::~Feed() = default;

void Feed::start_epoch(std::int64_t epoch, std::int64_t first_batch) {
  if (card_) {
    card_->start_epoch(epoch, first_batch);
  } else {
    loader_.start_epoch(epoch, first_batch);
  }
  batch_.reset();
}

std::optional<FedBatch> Feed::next() {
  batch_.reset();
  batch_ = card_ ? card_->next() : loader_.next();
  if (!batch_) return std::nullopt;
  return FedBatch{batch_->index, batch_->size, batch_->shape, batch_->indices};
}

void Feed::write(float* images, std::int32_t* labels) const {
  if (!batch_) throw StateError("feed: write() without a batch from next()");
  if (card_) return card_->write(*batch_, images, labels);
  const auto size = static_cast<std::size_t>(batch_->size);
  const auto floats = static_cast<std::size_t>(batch_->shape.count());
  copy_bytes(images, device_, batch_->images, Device::Cpu, floats * sizeof(float));
  copy_bytes(labels, device_, batch_->labels, Device::Cpu, size * sizeof(std::int32_t));
}

}  // namespace palimpsest::datasets
