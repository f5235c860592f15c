#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/memory/offload.hpp>

namespace palimpsest::memory {

class Fetch;

/// Places outside of one device's memory, and moves to and from them, which are done in the order in which they are
/// given, beside the computation. Its users hold mutex(), but for stats().
class OffloadStore {
 public:
  /// Counts up from 1.
  using Ticket = std::uint64_t;

  explicit OffloadStore(std::unique_ptr<MemorySource> source) : places_(std::move(source)) {}
  virtual ~OffloadStore() = default;
  OffloadStore(const OffloadStore&) = delete;
  OffloadStore& operator=(const OffloadStore&) = delete;

  /// Throws OffloadError if there is no room.
  void* take(std::size_t bytes);
  void give(void* place, std::size_t bytes) noexcept;

  /// Starts a move between a place and the device's memory, which must be left alone until finish(). Throws
  /// DeviceError.
  virtual Ticket write(void* place, const void* from, std::size_t bytes) = 0;
  virtual Ticket read(void* to, const void* place, std::size_t bytes) = 0;
  /// The device's later work comes after that move. To be called once for each, whatever has happened.
  /// Throws OffloadError or DeviceError for a move that has failed; it is over then, too.
  virtual void finish(Ticket ticket) = 0;

  std::mutex& mutex() { return mutex_; }
  /// Recipes whose values are on their way out, the longest first. Each is here as long as it holds memory for that.
  std::deque<Fetch*>& leaving() { return leaving_; }
  OffloadStats stats();

 private:
  std::mutex mutex_;
  CachingAllocator places_;
  OffloadStats stats_;
  std::deque<Fetch*> leaving_;
};

/// Addresses that stand for places elsewhere: from `offset_base` on without end, and nobody's memory.
class PlaceNumbers : public MemorySource {
 public:
  static constexpr std::uintptr_t offset_base = std::uintptr_t{1} << 60;

  void* take(std::size_t bytes, std::size_t& granted) override;
  void give(void*, std::size_t) override {}
  std::size_t granule() const override { return unit; }
  bool on_host() const override { return false; }

 private:
  static constexpr std::size_t unit = std::size_t{1} << 20;
  std::uintptr_t next_ = offset_base;
};

/// A file without a name in `directory`, and a thread that writes and reads it. Throws OffloadError.
std::shared_ptr<OffloadStore> make_file_store(const std::string& directory);

/// The device's store, on the CPU that of the options' folder, made on first use. Throws OffloadError, DeviceError.
std::shared_ptr<OffloadStore> offload_store(Device device, const OffloadOptions& options);

}  // namespace palimpsest::memory
