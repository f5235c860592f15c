#include <palimpsest/core/cuda/backend.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include <palimpsest/core/cuda/device.hpp>

namespace palimpsest::cuda {
namespace {

cudaError_t probe(int& devices) {
  devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) {
    cudaGetLastError();
    devices = 0;
  }
  return status;
}

class CardMemory : public MemorySource {
 public:
  void* take(std::size_t bytes, std::size_t& granted) override {
    granted = (bytes + system_granule - 1) / system_granule * system_granule;
    void* address = nullptr;
    const cudaError_t status = cudaMalloc(&address, granted);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    check(status, "cudaMalloc");
    return address;
  }
  void give(void* address, std::size_t) override { PALIMPSEST_CUDA(cudaFree(address)); }
  std::size_t granule() const override { return 0; }
#if defined(PALIMPSEST_CUDA_EMULATOR)
  bool on_host() const override { return true; }  // the address sanitizer watches over kernels, too
#else
  bool on_host() const override { return false; }
#endif
};

class PinnedMemory : public MemorySource {
 public:
  void* take(std::size_t bytes, std::size_t& granted) override {
    // Pinning takes the system milliseconds: few large pieces.
    constexpr std::size_t granule = std::size_t{32} << 20;
    granted = (bytes + granule - 1) / granule * granule;
    void* address = nullptr;
    const cudaError_t status = cudaMallocHost(&address, granted);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    check(status, "cudaMallocHost");
    return address;
  }
  void give(void* address, std::size_t) override { PALIMPSEST_CUDA(cudaFreeHost(address)); }
  std::size_t granule() const override { return 0; }
  // A copy that was given before its memory was released may still run afterwards, in order: nothing for a sanitizer.
  bool on_host() const override { return false; }
};

/// The marks of all couplings.
class Marks {
 public:
  Marks() {
    void* address = nullptr;
    PALIMPSEST_CUDA(cudaMalloc(&address, bytes));
    marks_ = static_cast<unsigned*>(address);
    PALIMPSEST_CUDA(cudaMallocHost(&address, bytes));
    mirror_ = static_cast<unsigned*>(address);
  }

  void clear(cudaStream_t stream) { PALIMPSEST_CUDA(cudaMemsetAsync(marks_, 0, bytes, stream)); }

  unsigned* add(RangeMark& mark) {
    const std::lock_guard lock(mutex_);
    const std::size_t place = next_++ % capacity;
    known_.emplace(&mark, place);
    return marks_ + place;
  }
  void remove(RangeMark& mark) {
    const std::lock_guard lock(mutex_);
    known_.erase(&mark);
  }
  /// True if a coupling has left its range that may be back.
  bool any_left() {
    const std::lock_guard lock(mutex_);
    return std::any_of(known_.begin(), known_.end(), [](const auto& known) { return known.first->left(); });
  }
  /// Tells all what was found, and clears what they are read from.
  void read(cudaStream_t stream) {
    PALIMPSEST_CUDA(cudaMemcpyAsync(mirror_, marks_, bytes, cudaMemcpyDeviceToHost, stream));
    PALIMPSEST_CUDA(cudaStreamSynchronize(stream));
    clear(stream);
    const std::lock_guard lock(mutex_);
    for (const auto& [mark, place] : known_) mark->take(mirror_[place]);
  }

 private:
  static constexpr std::size_t capacity = 4096;
  static constexpr std::size_t bytes = capacity * sizeof(unsigned);

  unsigned* marks_ = nullptr;
  unsigned* mirror_ = nullptr;  // in pinned host memory
  std::mutex mutex_;
  std::unordered_map<RangeMark*, std::size_t> known_;
  std::size_t next_ = 0;
};

/// The process's stream, the places for faults and marks, and mirrors of them that the host can read. Never destroyed:
/// tensors with static lifetime may outlive any order of destruction, and the driver cleans up after the process.
struct Context {
  cudaStream_t stream = nullptr;
  Fault* fault = nullptr;
  Fault* fault_mirror = nullptr;  // in pinned host memory
  Marks marks;

  Context() {
    PALIMPSEST_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    void* address = nullptr;
    PALIMPSEST_CUDA(cudaMalloc(&address, sizeof(Fault)));
    fault = static_cast<Fault*>(address);
    PALIMPSEST_CUDA(cudaMallocHost(&address, sizeof(Fault)));
    fault_mirror = static_cast<Fault*>(address);
    PALIMPSEST_CUDA(cudaMemsetAsync(fault, 0, sizeof(Fault), stream));
    marks.clear(stream);
  }
};

Context& context() {
  static Context& instance = *new Context;
  return instance;
}

[[noreturn]] void throw_fault(const Fault& fault) {
  if (fault.kind == Fault::Label) {
    throw ValueError(concat_text("[", fault.op, "] label ", fault.index, " is ", static_cast<long long>(fault.value),
                                 ", expected 0 to ", fault.detail - 1));
  }
  const bool is_double = fault.detail < 0;
  const int grid = is_double ? -fault.detail - 1 : fault.detail;
  if (fault.kind == Fault::OffGrid) {
    throw ValueError(concat_text("[", fault.op, "] input 0 is not on the grid 2^-", grid, ": it holds ", fault.value,
                                 "; pass it through round_to_grid() first"));
  }
  throw RangeError(concat_text("[", fault.op, "] a value of magnitude ", fault.value, " leaves the range below 2^",
                               (is_double ? 53 : 24) - grid, " in which sums on the grid 2^-", grid, " are exact in ",
                               is_double ? "float64" : "float32", ": taken again, the step keeps its stream"));
}

/// Waits for the stream and throws what a kernel has found wrong in the data since the last time.
void wait() {
  Context& own = context();
  PALIMPSEST_CUDA(cudaMemcpyAsync(own.fault_mirror, own.fault, sizeof(Fault), cudaMemcpyDeviceToHost, own.stream));
  PALIMPSEST_CUDA(cudaStreamSynchronize(own.stream));
  const Fault found = *own.fault_mirror;
  if (found.kind != Fault::None || own.marks.any_left()) own.marks.read(own.stream);
  if (found.kind == Fault::None) return;
  PALIMPSEST_CUDA(cudaMemsetAsync(own.fault, 0, sizeof(Fault), own.stream));
  throw_fault(found);
}

/// A copy stream and one event each way.
class StreamUpload : public Upload {
 public:
  StreamUpload() {
    PALIMPSEST_CUDA(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking));
    PALIMPSEST_CUDA(cudaEventCreateWithFlags(&arrived_, cudaEventDisableTiming));
    PALIMPSEST_CUDA(cudaEventCreateWithFlags(&free_, cudaEventDisableTiming));
  }
  StreamUpload(const StreamUpload&) = delete;
  StreamUpload& operator=(const StreamUpload&) = delete;
  ~StreamUpload() override {
    cudaStreamSynchronize(copies_);
    cudaEventDestroy(free_);
    cudaEventDestroy(arrived_);
    cudaStreamDestroy(copies_);
  }

  void begin() override {
    PALIMPSEST_CUDA(cudaEventRecord(free_, stream()));
    PALIMPSEST_CUDA(cudaStreamWaitEvent(copies_, free_, 0));
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    PALIMPSEST_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, copies_));
  }
  void end() override { PALIMPSEST_CUDA(cudaEventRecord(arrived_, copies_)); }
  void use() override { PALIMPSEST_CUDA(cudaStreamWaitEvent(stream(), arrived_, 0)); }
  void wait() override { PALIMPSEST_CUDA(cudaEventSynchronize(arrived_)); }

 private:
  cudaStream_t copies_ = nullptr;
  cudaEvent_t arrived_ = nullptr;  // what was uploaded is there
  cudaEvent_t free_ = nullptr;     // the kernels that read the destination before are done
};

/// One stream for both directions: what is copied out comes back behind that, and a place in host memory that is used
/// again is written behind its last read.
class StreamCopies : public CopyQueue {
 public:
  StreamCopies() {
    PALIMPSEST_CUDA(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking));
    PALIMPSEST_CUDA(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming));
    for (cudaEvent_t& done : done_) PALIMPSEST_CUDA(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
  }
  StreamCopies(const StreamCopies&) = delete;
  StreamCopies& operator=(const StreamCopies&) = delete;
  ~StreamCopies() override {
    cudaStreamSynchronize(copies_);
    for (cudaEvent_t done : done_) cudaEventDestroy(done);
    cudaEventDestroy(ready_);
    cudaStreamDestroy(copies_);
  }

  std::uint64_t copy(void* to, const void* from, std::size_t bytes) override {
    PALIMPSEST_CUDA(cudaEventRecord(ready_, stream()));
    PALIMPSEST_CUDA(cudaStreamWaitEvent(copies_, ready_, 0));
    PALIMPSEST_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, copies_));
    ++copied_;
    PALIMPSEST_CUDA(cudaEventRecord(done_of(copied_), copies_));
    return copied_;
  }
  void use(std::uint64_t number) override { PALIMPSEST_CUDA(cudaStreamWaitEvent(stream(), done_of(number), 0)); }

 private:
  /// An event serves copy after copy: who waits for an early one late waits for a later one, too.
  cudaEvent_t& done_of(std::uint64_t number) { return done_[number % done_.size()]; }

  cudaStream_t copies_ = nullptr;
  cudaEvent_t ready_ = nullptr;  // the kernels so far are done
  std::array<cudaEvent_t, 16> done_{};
  std::uint64_t copied_ = 0;
};

class EventTimer : public DeviceTimer {
 public:
  EventTimer() {
    PALIMPSEST_CUDA(cudaEventCreateWithFlags(&start_, cudaEventDefault));
    PALIMPSEST_CUDA(cudaEventCreateWithFlags(&stop_, cudaEventDefault));
  }
  EventTimer(const EventTimer&) = delete;
  EventTimer& operator=(const EventTimer&) = delete;
  ~EventTimer() override {
    cudaEventDestroy(stop_);
    cudaEventDestroy(start_);
  }

  void start() override { PALIMPSEST_CUDA(cudaEventRecord(start_, stream())); }
  void stop() override { PALIMPSEST_CUDA(cudaEventRecord(stop_, stream())); }
  double milliseconds() override {
    float elapsed = 0;
    PALIMPSEST_CUDA(cudaEventSynchronize(stop_));
    PALIMPSEST_CUDA(cudaEventElapsedTime(&elapsed, start_, stop_));
    return static_cast<double>(elapsed);
  }

 private:
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
};

bool wait_after_each_launch() {
  static const bool on = [] {
    const char* const value = std::getenv("PALIMPSEST_CUDA_SYNC");
    return value != nullptr && std::strcmp(value, "0") != 0;
  }();
  return on;
}

}  // namespace

void check(cudaError_t status, const char* command) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears the error, so that the next call does not report it again
  throw DeviceError(concat_text(command, " failed: ", cudaGetErrorString(status)));
}

void check_launch(cudaError_t status, const char* kernel, const Geometry& geometry) {
  if (status == cudaSuccess && wait_after_each_launch()) status = cudaStreamSynchronize(stream());
  if (status == cudaSuccess) return;
  cudaGetLastError();
  const auto& [blocks, threads] = geometry;
  throw DeviceError(concat_text("kernel ", kernel, " on ", blocks.x, " x ", blocks.y, " x ", blocks.z, " blocks of ",
                                threads.x, " x ", threads.y, " threads failed: ", cudaGetErrorString(status)));
}

cudaStream_t stream() { return context().stream; }
Fault* fault() { return context().fault; }

int device_count() {
  int devices = 0;
  probe(devices);
  return devices;
}

std::string unavailable_reason() {
  int devices = 0;
  const cudaError_t status = probe(devices);
  int driver = 0;
  // The runtime's own words for this are about versions.
  if (status != cudaSuccess && cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) {
    return "there is no NVIDIA driver (libcuda.so.1)";
  }
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return devices == 0 ? "the driver reports no device" : "";
}

std::string device_name() {
  int device = 0;
  cudaDeviceProp properties = {};
  PALIMPSEST_CUDA(cudaGetDevice(&device));
  PALIMPSEST_CUDA(cudaGetDeviceProperties(&properties, device));
  return concat_text(properties.name, ", compute capability ", properties.major, '.', properties.minor, ", ",
                     format_mebibytes(properties.totalGlobalMem));
}

std::unique_ptr<MemorySource> make_memory() { return std::make_unique<CardMemory>(); }

DeviceMemory device_memory() {
  DeviceMemory memory;
  PALIMPSEST_CUDA(cudaMemGetInfo(&memory.free, &memory.total));
  return memory;
}

void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  PALIMPSEST_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream()));
  if (to_device == Device::Cpu) {
    wait();
  } else if (from_device == Device::Cpu) {
    // The caller may overwrite its memory next, which may be pinned: then the copy reads it after this call returns.
    PALIMPSEST_CUDA(cudaStreamSynchronize(stream()));
  }
}

void fill_bytes(void* to, unsigned char value, std::size_t bytes) {
  PALIMPSEST_CUDA(cudaMemsetAsync(to, value, bytes, stream()));
}

void synchronize() { wait(); }

std::unique_ptr<Upload> make_upload() { return std::make_unique<StreamUpload>(); }

std::unique_ptr<CopyQueue> make_copy_queue() { return std::make_unique<StreamCopies>(); }

std::unique_ptr<MemorySource> make_pinned_memory() { return std::make_unique<PinnedMemory>(); }

std::unique_ptr<DeviceTimer> make_timer() { return std::make_unique<EventTimer>(); }

void pin(void* address, std::size_t bytes) {
  PALIMPSEST_CUDA(cudaHostRegister(address, bytes, cudaHostRegisterDefault));
}

unsigned* add_mark(RangeMark& mark) { return context().marks.add(mark); }

void remove_mark(RangeMark& mark) noexcept { context().marks.remove(mark); }

void unpin(void* address) noexcept {
  if (cudaHostUnregister(address) != cudaSuccess) cudaGetLastError();
}

}  // namespace palimpsest::cuda
