#include <palimpsest/core/allocator.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <mutex>
#include <unordered_map>
#include <utility>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/host_memory.hpp>

namespace palimpsest {
namespace {

/// Addresses for tensors without bytes: distinct, never readable. They come in the pieces in which `device` would give
/// memory, so that the reserved bytes are predicted as well.
class MetaMemory : public MemorySource {
 public:
  explicit MetaMemory(Device device) : granule_(device == Device::Cuda ? 0 : system_granule) {
    static std::atomic<std::uintptr_t> ranges{0};
    next_ = (std::uintptr_t{1} << 60) + (ranges++ << 50);
  }

  void* take(std::size_t bytes, std::size_t& granted) override {
    granted = (bytes + system_granule - 1) / system_granule * system_granule;
    if (granted < bytes) return nullptr;
    if (granule_ == 0) next_ += system_granule;  // a gap
    void* const address = reinterpret_cast<void*>(next_);
    next_ += granted;
    return address;
  }
  void give(void* address, std::size_t bytes) override {
    const auto begin = reinterpret_cast<std::uintptr_t>(address);
    if (begin + bytes == next_) next_ = begin;
  }
  std::size_t granule() const override { return granule_; }
  bool on_host() const override { return false; }

 private:
  std::size_t granule_;
  std::uintptr_t next_;
};

std::unique_ptr<MemorySource> make_source(Device device) {
  switch (device) {
    case Device::Cpu:
      return make_host_memory();
    case Device::Cuda:
      return make_cuda_memory();
    case Device::MetaCpu:
    case Device::MetaCuda:
      return std::make_unique<MetaMemory>(kernel_device(device));
  }
  throw DeviceError("no such device");
}

// Small and short-lived allocations each have an address range of their own. Otherwise a parameter or a kept activation
// lands in the gap that an arena or a workspace has just left, and the next larger one must be placed behind
// everything.
enum Pool { Small, ShortLived, LongLived, pool_count };

Pool pool_of(std::size_t bytes, Tag tag) {
  constexpr std::size_t small = std::size_t{64} << 10;
  if (bytes <= small) return Small;
  return tag == Tag::Arena || tag == Tag::Workspace ? ShortLived : LongLived;
}

void poison(void* address, Device device, std::size_t bytes) noexcept {
  try {
    fill_bytes(address, device, 0xFF, bytes);
  } catch (const DeviceError&) {
    // A card that fails at this fails at the next kernel, too, where somebody can be told.
  }
}

}  // namespace

struct Allocator::State {
  std::mutex mutex;
  std::array<std::unique_ptr<CachingAllocator>, pool_count> pools;
  std::unordered_map<void*, Pool> pool_by_address;
  MemoryStats stats;
  std::size_t limit = 0;
  bool poison = false;
  AllocationListener* listener = nullptr;

  void update_reserved() {
    stats.reserved = 0;
    stats.system_calls = 0;
    for (const auto& pool : pools) {
      stats.reserved += pool->reserved();
      stats.system_calls += pool->system_calls();
    }
    stats.peak_reserved = std::max(stats.peak_reserved, stats.reserved);
  }
};

Allocator::Allocator(Device device) : device_(device), state_(std::make_unique<State>()) {
  for (auto& pool : state_->pools) pool = std::make_unique<CachingAllocator>(make_source(device));
}

Allocator::~Allocator() = default;

void* Allocator::allocate(std::size_t bytes, Tag tag) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  MemoryStats& stats = state_->stats;
  const auto refuse = [&](const std::string& why) {
    throw OutOfMemory(concat_text("out of memory on ", device_, ": ", format_mebibytes(bytes), " for ", to_string(tag),
                                  " beyond the ", format_mebibytes(stats.live), " in use (",
                                  format_tags(stats.live_by_tag), "); ", why));
  };
  if (state_->limit != 0 && (bytes > state_->limit || stats.live > state_->limit - bytes)) {
    refuse(concat_text("the limit is ", format_mebibytes(state_->limit)));
  }
  const Pool pool = pool_of(bytes, tag);
  const std::uint64_t calls_before = state_->pools[pool]->system_calls();
  void* address = state_->pools[pool]->allocate(bytes);
  if (address == nullptr) {
    for (auto& other : state_->pools) other->release_cached();
    address = state_->pools[pool]->allocate(bytes);
  }
  if (address == nullptr) {
    state_->update_reserved();
    refuse(concat_text("the device has no more; ", format_mebibytes(stats.reserved), " are reserved"));
  }
  if (state_->pools[pool]->system_calls() != calls_before) state_->update_reserved();
  state_->pool_by_address.emplace(address, pool);
  stats.live += bytes;
  stats.live_by_tag[static_cast<std::size_t>(tag)] += bytes;
  if (stats.live > stats.peak) {
    stats.peak = stats.live;
    stats.peak_by_tag = stats.live_by_tag;
  }
  if (state_->listener != nullptr) state_->listener->allocated(address, bytes, tag);
  return address;
}

void Allocator::release(void* address, std::size_t bytes, Tag tag) noexcept {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (state_->listener != nullptr) state_->listener->released(address, bytes, tag);
  if (state_->poison) poison(address, device_, bytes);
  const auto entry = state_->pool_by_address.find(address);
  state_->pools[entry->second]->release(address);
  state_->pool_by_address.erase(entry);
  state_->stats.live -= bytes;
  state_->stats.live_by_tag[static_cast<std::size_t>(tag)] -= bytes;
}

MemoryStats Allocator::stats() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->stats;
}

void Allocator::reset_peak() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  MemoryStats& stats = state_->stats;
  stats.peak = stats.live;
  stats.peak_by_tag = stats.live_by_tag;
  stats.peak_reserved = stats.reserved;
}

void Allocator::set_limit(std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->limit = bytes;
}

std::size_t Allocator::limit() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->limit;
}

void Allocator::release_cached() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  for (auto& pool : state_->pools) pool->release_cached();
  state_->update_reserved();
}

AllocationListener* Allocator::set_listener(AllocationListener* listener) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return std::exchange(state_->listener, listener);
}

void Allocator::set_poison(bool on) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->poison = on;
}

Allocator& allocator(Device device) {
  // Never destroyed: tensors with static lifetime may outlive any order of destruction.
  static Allocator& cpu = *new Allocator(Device::Cpu);
  switch (device) {
    case Device::Cpu:
      return cpu;
    case Device::Cuda: {
      static Allocator& cuda = *new Allocator(Device::Cuda);
      return cuda;
    }
    case Device::MetaCpu: {
      static Allocator& meta_cpu = *new Allocator(Device::MetaCpu);
      return meta_cpu;
    }
    case Device::MetaCuda: {
      static Allocator& meta_cuda = *new Allocator(Device::MetaCuda);
      return meta_cuda;
    }
  }
  throw DeviceError("no such device");
}

std::string format_mebibytes(std::size_t bytes) {
  std::array<char, 64> text{};
  const double mebibytes = static_cast<double>(bytes) / (1 << 20);
  std::snprintf(text.data(), text.size(), mebibytes < 10 ? "%.3f MiB" : "%.1f MiB", mebibytes);
  return text.data();
}

std::string format_tags(const TagBytes& bytes) {
  std::string text;
  for (int tag = 0; tag < tag_count; ++tag) {
    if (bytes[tag] == 0) continue;
    if (!text.empty()) text += ", ";
    text += concat_text(to_string(static_cast<Tag>(tag)), ' ', format_mebibytes(bytes[tag]));
  }
  return text.empty() ? "nothing" : text;
}

}  // namespace palimpsest
