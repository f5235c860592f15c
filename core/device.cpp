#include <palimpsest/core/device.hpp>

#include <cstring>
#include <utility>

#if defined(PALIMPSEST_HAS_CUDA)
#include <palimpsest/core/cuda/backend.hpp>
#endif

namespace palimpsest {
namespace {

[[noreturn, maybe_unused]] void refuse() {
  throw DeviceError(concat_text("no CUDA device: ", cuda_unavailable_reason()));
}

}  // namespace

#if defined(PALIMPSEST_HAS_CUDA)

const bool build::has_cuda = true;

namespace {

void require_device() {
  if (cuda_device_count() == 0) refuse();
}

}  // namespace

int cuda_device_count() {
  static const int count = cuda::device_count();
  return count;
}

std::string cuda_unavailable_reason() { return cuda::unavailable_reason(); }

std::string cuda_device_name() {
  require_device();
  return cuda::device_name();
}

std::unique_ptr<MemorySource> make_cuda_memory() {
  require_device();
  return cuda::make_memory();
}

DeviceMemory cuda_device_memory() {
  require_device();
  return cuda::device_memory();
}

std::unique_ptr<Upload> make_upload() {
  require_device();
  return cuda::make_upload();
}

std::unique_ptr<CopyQueue> make_copy_queue() {
  require_device();
  return cuda::make_copy_queue();
}

std::unique_ptr<MemorySource> make_pinned_memory() {
  require_device();
  return cuda::make_pinned_memory();
}

std::unique_ptr<DeviceTimer> make_device_timer() {
  require_device();
  return cuda::make_timer();
}

Pinned::Pinned(void* address, std::size_t bytes) : address_(address) {
  require_device();
  cuda::pin(address, bytes);
}

Pinned::~Pinned() {
  if (address_ != nullptr) cuda::unpin(address_);
}

RangeMark::RangeMark() {
  require_device();
  place_ = cuda::add_mark(*this);
}

RangeMark::~RangeMark() { cuda::remove_mark(*this); }

#else

const bool build::has_cuda = false;

int cuda_device_count() { return 0; }
std::string cuda_unavailable_reason() { return "this build has no CUDA (configure with -Dcuda=enabled)"; }
std::string cuda_device_name() { refuse(); }
std::unique_ptr<MemorySource> make_cuda_memory() { refuse(); }
DeviceMemory cuda_device_memory() { refuse(); }
std::unique_ptr<Upload> make_upload() { refuse(); }
std::unique_ptr<CopyQueue> make_copy_queue() { refuse(); }
std::unique_ptr<MemorySource> make_pinned_memory() { refuse(); }
std::unique_ptr<DeviceTimer> make_device_timer() { refuse(); }
Pinned::Pinned(void* address, std::size_t) : address_(address) { refuse(); }
Pinned::~Pinned() = default;
RangeMark::RangeMark() { refuse(); }
RangeMark::~RangeMark() = default;

#endif

void RangeMark::take(unsigned mark) {
  if (!std::exchange(ran_, false)) return;
  left_ = mark != 0;
  if (left_) ++times_found_;
}

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  if (is_meta(to_device) || is_meta(from_device) || bytes == 0) return;
  if (to_device == Device::Cpu && from_device == Device::Cpu) {
    std::memcpy(to, from, bytes);
    return;
  }
#if defined(PALIMPSEST_HAS_CUDA)
  cuda::copy(to, to_device, from, from_device, bytes);
#else
  refuse();
#endif
}

void fill_bytes(void* to, Device device, unsigned char value, std::size_t bytes) {
  if (is_meta(device) || bytes == 0) return;
  if (device == Device::Cpu) {
    std::memset(to, value, bytes);
    return;
  }
#if defined(PALIMPSEST_HAS_CUDA)
  cuda::fill_bytes(to, value, bytes);
#else
  refuse();
#endif
}

void synchronize(Device device) {
#if defined(PALIMPSEST_HAS_CUDA)
  if (device == Device::Cuda) cuda::synchronize();
#else
  (void)device;
#endif
}

}  // namespace palimpsest
