#include <palimpsest/core/host_memory.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <string>

namespace palimpsest {
namespace {

constexpr std::size_t huge_page = system_granule;

#if defined(MADV_POPULATE_WRITE)
constexpr int populate_write = MADV_POPULATE_WRITE;
#else
constexpr int populate_write = 23;  // Linux 5.14; older headers do not name it and older kernels refuse it
#endif

/// Backs the pages with memory now. False if the system has none: better an error here than the kernel's killer later.
bool populate(char* address, std::size_t bytes) {
  if (::madvise(address, bytes, populate_write) == 0) return true;
  if (errno == ENOMEM || errno == EFAULT) return false;
  const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  for (std::size_t at = 0; at < bytes; at += page) static_cast<volatile char*>(address)[at] = 0;
  return true;
}

/// True if the machine can back `bytes` more: populating beyond that would end the process instead of failing.
bool available(std::size_t bytes) {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::size_t kibibytes = 0;
  std::string unit;
  while (meminfo >> key >> kibibytes && std::getline(meminfo, unit)) {
    if (key == "MemAvailable:") return bytes / 1024 < kibibytes;
  }
  return true;
}

class HostMemory : public MemorySource {
 public:
  HostMemory() {
    // Addresses only. A smaller range does if even they are rationed (ulimit -v), and beyond it pieces stand alone.
    for (capacity_ = std::size_t{1} << 40; capacity_ >= (std::size_t{1} << 30); capacity_ /= 4) {
      mapping_ = reserve(capacity_);
      if (mapping_ == nullptr) continue;
      if (capacity_ < std::size_t{1} << 40) {
        // Others need addresses, too.
        ::munmap(mapping_ + capacity_ / 8, capacity_ - capacity_ / 8);
        capacity_ /= 8;
      }
      next_ = align(mapping_);
      end_ = mapping_ + capacity_;
      return;
    }
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  ~HostMemory() override {
    if (mapping_ != nullptr) ::munmap(mapping_, capacity_);
  }

  void* take(std::size_t bytes, std::size_t& granted) override {
    granted = (bytes + huge_page - 1) / huge_page * huge_page;
    if (granted < bytes || !available(granted)) return nullptr;
    const bool in_range = granted <= static_cast<std::size_t>(end_ - next_);
    char* const address = in_range ? next_ : reserve_alone(granted);
    if (address == nullptr || ::mprotect(address, granted, PROT_READ | PROT_WRITE) != 0) return nullptr;
    ::madvise(address, granted, MADV_HUGEPAGE);
    if (in_range) next_ += granted;
    if (populate(address, granted)) return address;
    give(address, granted);
    return nullptr;
  }

  void give(void* address, std::size_t bytes) override {
    char* const begin = static_cast<char*>(address);
    if (begin < mapping_ || begin >= end_) {
      ::munmap(begin, bytes);
      return;
    }
    forget(begin, bytes);
    if (begin + bytes == next_) next_ = begin;
  }

  std::size_t granule() const override { return huge_page; }

 private:
  static char* align(char* address) {
    return address + (huge_page - reinterpret_cast<std::uintptr_t>(address) % huge_page) % huge_page;
  }

  /// Addresses without memory; null if there are none.
  static char* reserve(std::size_t bytes) {
    void* const range = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return range == MAP_FAILED ? nullptr : static_cast<char*>(range);
  }

  /// The same outside of the range, on a huge page's boundary.
  static char* reserve_alone(std::size_t bytes) {
    char* const wider = reserve(bytes + huge_page);
    if (wider == nullptr) return nullptr;
    char* const address = align(wider);
    if (address > wider) ::munmap(wider, static_cast<std::size_t>(address - wider));
    ::munmap(address + bytes, static_cast<std::size_t>(wider + huge_page - address));
    return address;
  }

  static void forget(char* address, std::size_t bytes) {
    ::madvise(address, bytes, MADV_DONTNEED);
    ::mprotect(address, bytes, PROT_NONE);
  }

  std::size_t capacity_ = 0;
  char* mapping_ = nullptr;
  char* next_ = nullptr;
  char* end_ = nullptr;
};

}  // namespace

std::unique_ptr<MemorySource> make_host_memory() { return std::make_unique<HostMemory>(); }

}  // namespace palimpsest
