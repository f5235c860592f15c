#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <palimpsest/core/allocator.hpp>

namespace palimpsest {

/// The options that this build was made with.
namespace build {
extern const bool has_cuda;
}  // namespace build

/// Number of CUDA devices that can be used: 0 without CUDA in the build, without a driver or without a device.
int cuda_device_count();

/// Why there is none, in one line; empty if there is one.
std::string cuda_unavailable_reason();

/// The card's name, compute capability and memory. Throws DeviceError if there is none.
std::string cuda_device_name();

/// Memory of the current CUDA device. Throws DeviceError with the reason if there is none.
std::unique_ptr<MemorySource> make_cuda_memory();

/// The memory of a card as its driver sees it, in bytes: other processes and the driver's own share included.
struct DeviceMemory {
  std::size_t free = 0;
  std::size_t total = 0;
};
/// Throws DeviceError if there is no card.
DeviceMemory cuda_device_memory();

/// Copies bytes between devices, or within one. When it returns the host may use its side of the copy; within a CUDA
/// device, copies and kernels follow one another without the host waiting. A copy from or to a meta device does
/// nothing. Throws DeviceError; a copy from CUDA to the host also throws what a kernel has found wrong in its data
/// (RangeError, ValueError).
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);

/// Sets every byte to `value`; within a CUDA device in order with copies and kernels. Does nothing on a meta device.
/// Throws DeviceError.
void fill_bytes(void* to, Device device, unsigned char value, std::size_t bytes);
inline void zero_bytes(void* to, Device device, std::size_t bytes) { fill_bytes(to, device, 0, bytes); }

/// Waits until all work on a device is done, and throws what went wrong in it (DeviceError, RangeError, ValueError).
/// Does nothing on other devices than CUDA.
void synchronize(Device device);

/// Tells of one coupling of a model, step after step, whether its numbers have left the range in which they are exact
/// (ops::couple on a grid). A kernel sets the mark on the CUDA device; the host knows when it reads from the device
/// next. That read is a RangeError, unless all marks that were set had left the range before. So a step that is taken
/// again knows of all that left it. A coupling counts as having left until it has run without.
class RangeMark {
 public:
  /// Throws DeviceError if there is no CUDA device.
  RangeMark();
  ~RangeMark();
  RangeMark(const RangeMark&) = delete;
  RangeMark& operator=(const RangeMark&) = delete;

  /// In its last run that the host knows of.
  bool left() const { return left_; }
  /// How often the host has found it set.
  std::uint64_t times_found() const { return times_found_; }
  /// The place of the mark, in device memory, for a kernel that is about to run.
  unsigned* begin_run() {
    ran_ = true;
    return place_;
  }

  /// By the host, with the bytes that it has read there.
  void take(unsigned mark);

 private:
  unsigned* place_ = nullptr;
  bool ran_ = false;  // since the marks were read last
  bool left_ = false;
  std::uint64_t times_found_ = 0;
};

/// Copies from pinned host memory to the CUDA device beside the computation. A group of copies is begun, ended, and
/// used by the kernels that come after use(); all without the host waiting.
class Upload {
 public:
  virtual ~Upload() = default;

  /// The copies that follow wait for the kernels so far, which may still be reading their destination.
  virtual void begin() = 0;
  /// `from` must not change until wait() has returned.
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void end() = 0;
  /// Kernels after this see what was copied between begin() and end().
  virtual void use() = 0;
  /// Waits, on the host, until the copies up to end() are done.
  virtual void wait() = 0;
};
/// Throws DeviceError if there is no CUDA device.
std::unique_ptr<Upload> make_upload();

/// Copies between pinned host memory and the CUDA device, one after another, beside the computation. The host waits for
/// none of them: what needs one is put behind it.
class CopyQueue {
 public:
  virtual ~CopyQueue() = default;

  /// Copies when the kernels so far are done and the copies before. Returns the copy's number; they count up from 1.
  /// Both sides are to be left alone until use() of that number. Throws DeviceError.
  virtual std::uint64_t copy(void* to, const void* from, std::size_t bytes) = 0;
  /// Kernels and copies that other code gives to the device after this come after that copy. Throws DeviceError.
  virtual void use(std::uint64_t number) = 0;
};
/// Throws DeviceError if there is no CUDA device.
std::unique_ptr<CopyQueue> make_copy_queue();

/// Pinned host memory, from which and to which a CopyQueue copies, in large pieces. Throws DeviceError if there is no
/// CUDA device.
std::unique_ptr<MemorySource> make_pinned_memory();

/// Times work on the CUDA device itself, between two points of the order in which it is given.
class DeviceTimer {
 public:
  virtual ~DeviceTimer() = default;

  virtual void start() = 0;
  virtual void stop() = 0;
  /// Milliseconds from start() to stop(); waits until the device is there.
  virtual double milliseconds() = 0;
};
/// Throws DeviceError if there is no CUDA device.
std::unique_ptr<DeviceTimer> make_device_timer();

/// Keeps host memory in place while it lives, so that copies from it to the device run beside the computation. Throws
/// DeviceError.
class Pinned {
 public:
  Pinned(void* address, std::size_t bytes);
  ~Pinned();
  Pinned(Pinned&& other) noexcept : address_(other.address_) { other.address_ = nullptr; }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  Pinned& operator=(Pinned&&) = delete;

 private:
  void* address_;
};

}  // namespace palimpsest
