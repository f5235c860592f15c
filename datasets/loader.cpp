#include <palimpsest/datasets/loader.hpp>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/core/philox.hpp>

namespace palimpsest::datasets {
namespace {

/// A key of the loader's own, so that no other user of the same seed draws the same numbers.
std::uint64_t derive_key(std::uint64_t seed) {
  constexpr std::uint64_t loader = 0x6C6F61646572;  // "loader"
  const std::array<std::uint32_t, 4> words = philox(seed, loader, ~std::uint64_t{0});
  return std::uint64_t{words[0]} << 32 | words[1];
}

constexpr std::int64_t max_epochs = std::int64_t{1} << 32;
constexpr std::size_t page = std::size_t{64} << 10;  // a whole number of pages everywhere

std::size_t round_up(std::size_t bytes, std::size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

/// Batches that a loader has room for; one of them is in the caller's hands.
std::size_t slot_count(const LoaderOptions& spec) {
  return spec.workers == 0 ? 1 : static_cast<std::size_t>(spec.ahead) + 1;
}

}  // namespace

RawLayout::RawLayout(std::int64_t capacity, std::int64_t image_size) {
  const auto images = static_cast<std::size_t>(capacity);
  placements = images * sizeof(std::int32_t);
  pixels = placements + images * sizeof(Placement);
  bytes = pixels + images * static_cast<std::size_t>(image_size);
}

Loader::Loader(const ImageSource& images, LoaderOptions spec) : Loader(nullptr, &images, std::move(spec)) {}

Loader::Loader(const ImageSet& images, LoaderOptions spec)
    : Loader(std::make_unique<StoredImages>(images), nullptr, std::move(spec)) {}

Loader::Loader(std::unique_ptr<const ImageSource> stored, const ImageSource* images, LoaderOptions spec)
    : stored_(std::move(stored)),
      images_(images != nullptr ? *images : *stored_),
      form_(images_.form()),
      count_(images_.count()),
      spec_(std::move(spec)),
      transform_(form_, spec_.normalisation, spec_.pad_to, spec_.augmentation),
      batch_size_(std::min(spec_.batch_size, count_)),
      key_(derive_key(spec_.seed)),
      order_(static_cast<std::size_t>(std::max<std::int64_t>(count_, 0))),
      layout_(batch_size_, form_.size()) {
  check();
  batches_ = (count_ + (spec_.drop_last ? 0 : batch_size_ - 1)) / batch_size_;
  claimed_ = batches_;
  allocate_slots();
  for (int i = 0; i < spec_.workers; ++i) {
    // Memory that a thread asks for itself would cost a heap of its own.
    workers_.emplace_back([this, read = scratch()](const std::stop_token& stop) mutable { work(stop, read); });
  }
}

Loader::~Loader() {
  for (std::jthread& worker : workers_) worker.request_stop();
}

void Loader::check() const {
  const auto refuse = [](const auto&... parts) { throw ValueError(concat_text("loader: ", parts...)); };
  if (count_ < 1) refuse("a source of ", count_, " images");
  if (spec_.batch_size < 1) refuse("batch_size must be positive, got ", spec_.batch_size);
  if (spec_.workers < 0 || spec_.workers > 256) refuse("workers must be from 0 to 256, got ", spec_.workers);
  if (spec_.ahead < 1 || spec_.ahead > 4096) refuse("ahead must be from 1 to 4096, got ", spec_.ahead);
  if (count_ >= max_epochs - 1) refuse("at most 2^32 - 2 images, got ", count_);
  if (spec_.raw && spec_.augmentation.custom) {
    refuse("a custom augmentation is given finished images, raw batches have none");
  }
  if (spec_.drop_last && spec_.batch_size > count_) {
    refuse("drop_last leaves no batch of ", spec_.batch_size, " in ", count_, " images");
  }
}

std::size_t Loader::ring_bytes(std::int64_t batch_size, std::int64_t image_elements, const LoaderOptions& spec) {
  const auto image_bytes = static_cast<std::size_t>(image_elements) * sizeof(float);
  return slot_count(spec) * static_cast<std::size_t>(batch_size) * (sizeof(std::int32_t) + image_bytes);
}

void Loader::allocate_slots() {
  slots_.resize(slot_count(spec_));
  const std::size_t bytes = spec_.raw ? slots_.size() * round_up(layout_.bytes, CachingAllocator::alignment)
                                      : ring_bytes(batch_size_, transform_.size(), spec_);
  slot_bytes_ = bytes / slots_.size();
  memory_ = Buffer(Device::Cpu, spec_.raw ? round_up(bytes, page) + page : bytes, Tag::Data);
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
  ring_ = memory_.as<std::byte>() + (spec_.raw ? round_up(address, page) - address : 0);
}

void Loader::start_epoch(std::int64_t epoch, std::int64_t first_batch) {
  if (epoch < 0 || epoch >= max_epochs) throw ValueError(concat_text("loader: no epoch ", epoch));
  if (first_batch < 0 || first_batch > batches_) {
    throw ValueError(concat_text("loader: no batch ", first_batch, " in an epoch of ", batches_));
  }
  std::unique_lock lock(mutex_);
  claimed_ = batches_;
  changed_.wait(lock, [&] { return active_ == 0; });
  epoch_ = epoch;
  arrange(epoch);
  for (Slot& slot : slots_) {
    slot.batch = -1;
    slot.error = nullptr;
  }
  next_ = oldest_ = claimed_ = first_batch;
  lock.unlock();
  work_.notify_all();
}

void Loader::arrange(std::int64_t epoch) {
  std::iota(order_.begin(), order_.end(), 0);
  if (!spec_.shuffle) return;
  Random random(key_, static_cast<std::uint64_t>(epoch) << 32);
  for (std::size_t left = order_.size(); left > 1; --left) std::swap(order_[left - 1], order_[random.below(left)]);
}

std::optional<Batch> Loader::next() {
  std::unique_lock lock(mutex_);
  if (epoch_ < 0) throw StateError("loader: next() before start_epoch()");
  oldest_ = next_;
  if (next_ == batches_) return std::nullopt;
  Slot& slot = slot_of(next_);
  if (workers_.empty()) {
    std::vector<std::uint8_t> read = scratch();
    fill(next_, read);
  } else {
    work_.notify_all();
    changed_.wait(lock, [&] { return slot.batch == next_; });
    if (slot.error) std::rethrow_exception(slot.error);
  }
  return view(next_++);
}

void Loader::work(const std::stop_token& stop, std::vector<std::uint8_t>& read) {
  std::unique_lock lock(mutex_);
  const auto may_claim = [&] {
    return claimed_ < std::min(batches_, oldest_ + static_cast<std::int64_t>(slots_.size()));
  };
  while (work_.wait(lock, stop, may_claim) && !stop.stop_requested()) {
    const std::int64_t batch = claimed_++;
    ++active_;
    lock.unlock();
    std::exception_ptr error = try_fill(batch, read);
    lock.lock();
    --active_;
    slot_of(batch).batch = batch;
    slot_of(batch).error = std::move(error);
    changed_.notify_all();
  }
}

std::exception_ptr Loader::try_fill(std::int64_t batch, std::vector<std::uint8_t>& read) {
  try {
    fill(batch, read);
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

/// The random stream of an image in this epoch; that of index -1 is the shuffle's.
std::uint64_t Loader::stream(std::int64_t index) const {
  return static_cast<std::uint64_t>(epoch_) << 32 | static_cast<std::uint64_t>(index + 1);
}

Loader::Parts Loader::parts_of(std::int64_t batch) const {
  std::byte* const memory = memory_of(batch);
  return {reinterpret_cast<std::int32_t*>(memory),
          reinterpret_cast<float*>(memory + static_cast<std::size_t>(batch_size_) * sizeof(std::int32_t)),
          reinterpret_cast<Placement*>(memory + layout_.placements),
          reinterpret_cast<std::uint8_t*>(memory + layout_.pixels)};
}

void Loader::fill(std::int64_t batch, std::vector<std::uint8_t>& read) {
  const Parts to = parts_of(batch);
  const std::int64_t* const indices = order_.data() + batch * batch_size_;
  for (std::int64_t i = 0; i < size_of_batch(batch); ++i) {
    Random random(key_, stream(indices[i]));
    std::uint8_t* const pixels = spec_.raw ? to.pixels + i * form_.size() : read.data();
    images_.read(indices[i], random, pixels);
    if (spec_.raw) {
      to.placements[i] = transform_.draw(random);
    } else {
      transform_.apply(pixels, random, to.images + i * transform_.size());
    }
    to.labels[i] = images_.label(indices[i]);  // after read(), which may find that there is none
  }
}

Shape Loader::batch_shape(std::int64_t size) const {
  return {size, transform_.channels(), transform_.height(), transform_.width()};
}

std::int64_t Loader::size_of_batch(std::int64_t batch) const {
  return std::min(batch_size_, count_ - batch * batch_size_);
}

Batch Loader::view(std::int64_t batch) const {
  const Parts parts = parts_of(batch);
  const std::int64_t size = size_of_batch(batch);
  const std::span<const std::int64_t> indices(order_.data() + batch * batch_size_, static_cast<std::size_t>(size));
  const std::span<const std::byte> raw(memory_of(batch), layout_.bytes);
  if (spec_.raw) return {batch, size, batch_shape(size), nullptr, parts.labels, indices, raw};
  return {batch, size, batch_shape(size), parts.images, parts.labels, indices, {}};
}

}  // namespace palimpsest::datasets
