#pragma once

#include <cstddef>

#include <palimpsest/core/allocator.hpp>

namespace palimpsest::train {

/// The most memory that was in use at once, in bytes.
struct MemoryPeak {
  std::size_t total = 0;
  TagBytes by_tag{};         ///< the breakdown at that moment; adds up to `total`
  std::size_t reserved = 0;  ///< highest number of bytes taken from the system
};

/// Measures the peak of a device's memory from its construction on, without the pauses: an evaluation between two
/// epochs is no part of training. The bytes in use `before` are left out of all but the reserved ones.
class PeakMeter {
 public:
  explicit PeakMeter(Device device, const MemoryStats& before = {});

  /// A stretch that does not count, while it lives.
  class Pause {
   public:
    explicit Pause(PeakMeter& meter);
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    PeakMeter& meter_;
  };

  MemoryPeak peak() const;
  /// Bytes of the peak since the last call, or since the beginning: of a step, if called after each. peak() goes on.
  std::size_t take_lap();
  /// Bytes in use now, beside those from before.
  std::size_t live() const;

 private:
  Device device_;
  MemoryStats before_;
  MemoryPeak seen_;
  bool paused_ = false;
};

/// The process's own peak of resident memory (VmHWM) in bytes; 0 where the system does not tell.
std::size_t peak_resident_bytes();

}  // namespace palimpsest::train
