#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "the emulator switches stacks on x86-64 alone"
#endif

// Saves what a function call must preserve on the stack, stores the stack pointer at *rdi and goes on at rsi.
asm(R"(
.text
.type palimpsest_switch_stack, @function
palimpsest_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size palimpsest_switch_stack, . - palimpsest_switch_stack
)");
extern "C" void palimpsest_switch_stack(void** save, void* next);

namespace cuda_emulator {
namespace {

[[noreturn]] void die(const char* message) {
  std::fprintf(stderr, "cuda emulator: %s\n", message);
  std::abort();
}

// --- Device memory ---------------------------------------------------------------------------------------------------

struct Card {
  std::recursive_mutex mutex;
  std::map<void*, std::size_t> regions;
  std::size_t taken = 0;
  std::size_t capacity = std::size_t{4} << 30;
  int access = 0;
  Order order = Order::Ascending;
  std::uint64_t launches = 0;
  std::map<void*, std::size_t> pinned;

  void protect(int how) {
    for (const auto& [address, bytes] : regions) {
      if (::mprotect(address, bytes, how) != 0) die("mprotect failed");
    }
  }
};

Card& card() {
  static Card& instance = *new Card;
  return instance;
}

std::size_t whole_pages(std::size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

/// Pages that are neither readable nor writable. Large regions consist of huge pages where the system grants them:
/// every launch opens and closes all regions, which then takes a hundredth of the time.
void* map(std::size_t bytes) {
  constexpr std::size_t huge = std::size_t{2} << 20;
  const std::size_t slack = bytes % huge == 0 ? huge : 0;
  void* const mapped = ::mmap(nullptr, bytes + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED || slack == 0) return mapped != MAP_FAILED ? mapped : nullptr;
  char* const start = static_cast<char*>(mapped);
  const std::size_t before = (huge - reinterpret_cast<std::uintptr_t>(start) % huge) % huge;
  if (before > 0) ::munmap(start, before);
  if (before < slack) ::munmap(start + before + bytes, slack - before);
  ::madvise(start + before, bytes, MADV_HUGEPAGE);
  return start + before;
}

// --- Threads ---------------------------------------------------------------------------------------------------------

constexpr std::size_t stack_bytes = std::size_t{256} << 10;

/// A stack on which one thread of a block runs at a time.
struct Fiber {
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  void* stack_pointer = nullptr;
  dim3 thread;
  bool waiting = false;  // at a barrier
};

/// Runs the threads of one block. A thread runs on until it ends or meets a barrier, so that most kernels need a single
/// fiber, again and again.
class Block {
 public:
  void run(const dim3& threads, Order order, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    const unsigned count = threads.x * threads.y * threads.z;
    suspended_.clear();
    for (unsigned i = 0; i < count; ++i) {
      const unsigned linear = order == Order::Ascending ? i : count - 1 - i;
      Fiber* const fiber = take_idle();
      fiber->thread = dim3(linear % threads.x, linear / threads.x % threads.y, linear / threads.x / threads.y);
      start(*fiber);
      resume(*fiber);
    }
    if (!suspended_.empty() && suspended_.size() != count) die("not all threads of a block reach a barrier");
    while (!suspended_.empty()) {
      std::vector<Fiber*> round;
      round.swap(suspended_);
      for (Fiber* const fiber : round) resume(*fiber);
      if (!suspended_.empty() && suspended_.size() != count) die("not all threads of a block reach a barrier");
    }
  }

  void suspend() {
    Fiber& fiber = *running_;
    fiber.waiting = true;
    suspended_.push_back(&fiber);
    leave(fiber, false);
    threadIdx = fiber.thread;
  }

 private:
  const std::function<void()>* kernel_ = nullptr;
  std::deque<Fiber> fibers_;
  std::vector<Fiber*> idle_;
  std::vector<Fiber*> suspended_;
  Fiber* running_ = nullptr;
  void* scheduler_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_bytes_ = 0;
#endif

  Fiber* take_idle() {
    if (idle_.empty()) idle_.push_back(&fibers_.emplace_back());
    Fiber* const fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  static thread_local Block* starting;

  static void entry() {
    Block& block = *starting;
    block.arrived();
    (*block.kernel_)();
    Fiber& fiber = *block.running_;
    block.idle_.push_back(&fiber);
    block.leave(fiber, true);
    die("a finished thread went on");
  }

  void start(Fiber& fiber) {
    // As palimpsest_switch_stack leaves it: six registers, the return address, and the alignment of a call.
    auto* top = reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(fiber.stack.get() + stack_bytes) / 16 * 16);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
  }

  void resume(Fiber& fiber) {
    fiber.waiting = false;
    running_ = &fiber;
    starting = this;
    threadIdx = fiber.thread;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), stack_bytes);
#endif
    palimpsest_switch_stack(&scheduler_, fiber.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  /// On a fiber, after it has been switched to.
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_bytes_);
#endif
  }

  void leave(Fiber& fiber, [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, scheduler_stack_, scheduler_bytes_);
#endif
    palimpsest_switch_stack(&fiber.stack_pointer, scheduler_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &scheduler_stack_, &scheduler_bytes_);
#endif
  }
};

thread_local Block* Block::starting = nullptr;
thread_local Block* running_block = nullptr;

}  // namespace

void set_order(Order order) { card().order = order; }
void set_memory(std::size_t bytes) { card().capacity = bytes; }
std::uint64_t launches() { return card().launches; }

Access::Access() {
  card().mutex.lock();
  if (card().access++ == 0) card().protect(PROT_READ | PROT_WRITE);
}

Access::~Access() {
  if (--card().access == 0) card().protect(PROT_NONE);
  card().mutex.unlock();
}

namespace {

void run_now(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  const Access access;
  static thread_local Block block;
  running_block = &block;
  const dim3& grid = config.gridDim;
  gridDim = grid;
  blockDim = config.blockDim;
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t linear = card().order == Order::Ascending ? i : blocks - 1 - i;
    blockIdx = dim3(static_cast<unsigned>(linear % grid.x), static_cast<unsigned>(linear / grid.x % grid.y),
                    static_cast<unsigned>(linear / grid.x / grid.y));
    block.run(config.blockDim, card().order, kernel);
  }
}

}  // namespace

cudaError_t run(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  const dim3& grid = config.gridDim;
  const dim3& threads = config.blockDim;
  const auto product = [](const dim3& d) { return std::uint64_t{d.x} * d.y * d.z; };
  if (product(grid) == 0 || product(threads) == 0 || product(threads) > 1024 || grid.x > 0x7FFFFFFF || grid.y > 65535 ||
      grid.z > 65535 || threads.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  ++card().launches;
  submit(config.stream, [config, kernel] { run_now(config, kernel); });
  return cudaSuccess;
}

void barrier() { running_block->suspend(); }

}  // namespace cuda_emulator

using cuda_emulator::Access;
using cuda_emulator::card;

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorHostMemoryAlreadyRegistered:
      return "part or all of the requested memory range is already mapped";
    case cudaErrorHostMemoryNotRegistered:
      return "pointer does not correspond to a registered memory region";
    case cudaErrorInvalidValue:
      break;
  }
  return "invalid argument";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "emulated on the CPU");
  properties->totalGlobalMem = card().capacity;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = card().capacity;
  *free = card().capacity > card().taken ? card().capacity - card().taken : 0;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, std::size_t bytes) {
  const std::lock_guard lock(card().mutex);
  const std::size_t pages = cuda_emulator::whole_pages(bytes);
  if (bytes == 0 || card().taken + pages > card().capacity) return cudaErrorMemoryAllocation;
  void* const region = cuda_emulator::map(pages);
  if (region == nullptr) return cudaErrorMemoryAllocation;
  card().regions.emplace(region, pages);
  card().taken += pages;
  *address = region;
  // Fresh memory of a card is not zero: NaN in every type shows a read before the first write.
  const Access access;
  std::memset(region, 0xFF, pages);
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  const std::lock_guard lock(card().mutex);
  if (address == nullptr) return cudaSuccess;
  cuda_emulator::finish();
  const auto region = card().regions.find(address);
  if (region == card().regions.end()) return cudaErrorInvalidValue;
  card().taken -= region->second;
  ::munmap(address, region->second);
  card().regions.erase(region);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** address, std::size_t bytes) {
  *address = std::malloc(bytes);
  return *address != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void* address) {
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void* address, std::size_t bytes, unsigned) {
  const std::lock_guard lock(card().mutex);
  return card().pinned.emplace(address, bytes).second ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered;
}

cudaError_t cudaHostUnregister(void* address) {
  const std::lock_guard lock(card().mutex);
  return card().pinned.erase(address) == 1 ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  cuda_emulator::submit(stream, [=] {
    const Access access;
    std::memmove(to, from, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  cuda_emulator::submit(stream, [=] {
    const Access access;
    std::memset(to, value, bytes);
  });
  return cudaSuccess;
}
