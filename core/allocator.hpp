#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <palimpsest/core/types.hpp>

namespace palimpsest {

/// The purpose of an allocation. The bytes of all tags add up to the live total at every moment.
enum class Tag : std::uint8_t { Parameter, Gradient, Activation, Arena, Workspace, Optimiser, Data };
inline constexpr int tag_count = 7;

constexpr std::string_view to_string(Tag tag) {
  constexpr std::array<std::string_view, tag_count> names = {"parameter", "gradient",  "activation", "arena",
                                                             "workspace", "optimiser", "data"};
  return names[static_cast<std::size_t>(tag)];
}

/// Bytes by tag.
using TagBytes = std::array<std::size_t, tag_count>;

/// The memory of one device, in bytes. Live bytes are those asked for, without rounding. A meta device counts what the
/// device that it stands for would count, `reserved` included.
struct MemoryStats {
  std::size_t live = 0;            ///< held now
  TagBytes live_by_tag{};          ///< adds up to `live`
  std::size_t peak = 0;            ///< highest `live` since the last reset
  TagBytes peak_by_tag{};          ///< the breakdown at that moment; adds up to `peak`
  std::size_t reserved = 0;        ///< taken from the system now, rounding and free blocks included
  std::size_t peak_reserved = 0;   ///< highest `reserved` since the last reset
  std::uint64_t system_calls = 0;  ///< times the system was asked for memory
};

/// The CPU's memory and CUDA's are taken from the system in multiples of so many bytes: one huge page.
inline constexpr std::size_t system_granule = std::size_t{2} << 20;

/// The source of a caching allocator's memory: the system, a GPU, or nothing at all (meta devices; tests).
class MemorySource {
 public:
  virtual ~MemorySource() = default;

  /// At least `bytes` bytes aligned to 256; writes the size to `granted`. Null if there are none.
  virtual void* take(std::size_t bytes, std::size_t& granted) = 0;
  /// Gives memory back: exactly what a call of take() returned or, where granule() is not 0, any run of granules.
  virtual void give(void* address, std::size_t bytes) = 0;
  /// 0: every piece stands alone. Otherwise pieces may continue one another, and be used and given back as one, in
  /// multiples of this many bytes.
  virtual std::size_t granule() const = 0;
  /// True if the host can read and write the memory, so that sanitizers may watch over it.
  virtual bool on_host() const { return true; }
};

/// Keeps freed memory for the next request: best fit, blocks are split and neighbours are joined again, so that a
/// steady training step makes no system call. The reserved bytes are a function of the requests and of the sizes of the
/// pieces that the source gives, not of their addresses. Not thread-safe; Allocator locks.
class CachingAllocator {
 public:
  static constexpr std::size_t alignment = 256;

  explicit CachingAllocator(std::unique_ptr<MemorySource> source);
  ~CachingAllocator();
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  /// Null if the source has no more, free segments having been given back first.
  void* allocate(std::size_t bytes);
  void release(void* address);
  /// Gives back to the source what it can: pieces that are wholly free, and the free end of a contiguous source.
  void release_cached();

  std::size_t reserved() const { return reserved_; }
  std::uint64_t system_calls() const { return system_calls_; }

 private:
  struct Blocks;
  std::unique_ptr<Blocks> blocks_;
  std::unique_ptr<MemorySource> source_;
  std::size_t reserved_ = 0;
  std::uint64_t system_calls_ = 0;

  /// Takes a piece in which, or with whose help, `bytes` fit; `whole`: in which they do by itself.
  bool grow(std::size_t bytes, bool whole);
  // Tell the address sanitizer, where there is one, what may be read and written.
  void forbid(const void* address, std::size_t bytes) const;
  void permit(const void* address, std::size_t bytes) const;
};

/// Told of every allocation of a device, in order. It is called while the allocator is locked and must not use it.
class AllocationListener {
 public:
  virtual ~AllocationListener() = default;
  virtual void allocated(const void* address, std::size_t bytes, Tag tag) noexcept = 0;
  virtual void released(const void* address, std::size_t bytes, Tag tag) noexcept = 0;
};

/// The accounting allocator of one device. Every byte that the framework uses for tensors comes from here. Thread-safe.
class Allocator {
 public:
  explicit Allocator(Device device);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  /// Throws OutOfMemory, with what was asked, the limit and the bytes by tag; nothing has changed then.
  void* allocate(std::size_t bytes, Tag tag);
  void release(void* address, std::size_t bytes, Tag tag) noexcept;

  MemoryStats stats() const;
  /// Forgets the peaks: they start again from what is live and reserved now.
  void reset_peak();
  /// Live bytes may not exceed this; 0 for no limit but the machine's.
  void set_limit(std::size_t bytes);
  std::size_t limit() const;
  /// Returns unused memory to the system.
  void release_cached();
  /// Sets who is told of allocations, null for nobody, and returns who was. Does not own.
  AllocationListener* set_listener(AllocationListener* listener);
  /// For tests: fills what is released with 0xFF (NaN), so that a read of freed memory shows.
  void set_poison(bool on);

  Device device() const { return device_; }

 private:
  struct State;
  Device device_;
  std::unique_ptr<State> state_;
};

/// The allocator of a device; made on first use. Throws DeviceError if the device is not there.
Allocator& allocator(Device device);

/// An owned allocation: uninitialised bytes aligned to 256 (none on a meta device).
class Buffer {
 public:
  Buffer() = default;
  /// Throws OutOfMemory.
  Buffer(Device device, std::size_t bytes, Tag tag)
      : allocator_(&allocator(device)), data_(allocator_->allocate(bytes, tag)), bytes_(bytes), tag_(tag) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (allocator_ != nullptr) allocator_->release(data_, bytes_, tag_);
  }

  explicit operator bool() const { return allocator_ != nullptr; }
  /// The address; on a meta device a unique one that must not be read or written.
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }
  Tag tag() const { return tag_; }
  Device device() const { return allocator_->device(); }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(allocator_, other.allocator_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(tag_, other.tag_);
  }

  Allocator* allocator_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Tag tag_ = Tag::Activation;
};

/// "1,234.5 MiB".
std::string format_mebibytes(std::size_t bytes);
/// "activation 12.0 MiB, gradient 3.0 MiB": the tags that are not zero.
std::string format_tags(const TagBytes& bytes);

}  // namespace palimpsest
