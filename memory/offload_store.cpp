#include <palimpsest/memory/offload_store.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <vector>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>

namespace palimpsest::memory {
namespace {

/// On a meta device nothing moves.
class NoStore : public OffloadStore {
 public:
  NoStore() : OffloadStore(std::make_unique<PlaceNumbers>()) {}

  Ticket write(void*, const void*, std::size_t) override { return ++moves_; }
  Ticket read(void*, const void*, std::size_t) override { return ++moves_; }
  void finish(Ticket) override {}

 private:
  Ticket moves_ = 0;
};

/// Pinned host memory. A place that is given back may be written again at once: all copies come one after another. So
/// may memory on the card behind finish(), which puts its next user behind the copy.
class PinnedStore : public OffloadStore {
 public:
  PinnedStore() : OffloadStore(make_pinned_memory()), copies_(make_copy_queue()) {}

  Ticket write(void* place, const void* from, std::size_t bytes) override { return copies_->copy(place, from, bytes); }
  Ticket read(void* to, const void* place, std::size_t bytes) override { return copies_->copy(to, place, bytes); }
  void finish(Ticket ticket) override { copies_->use(ticket); }

 private:
  std::unique_ptr<CopyQueue> copies_;
};

struct Stores {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<OffloadStore>> cpu;  // by folder
  std::shared_ptr<OffloadStore> cuda;
  std::shared_ptr<OffloadStore> meta_cpu = std::make_shared<NoStore>();
  std::shared_ptr<OffloadStore> meta_cuda = std::make_shared<NoStore>();

  /// Those of the device that have been made.
  std::vector<std::shared_ptr<OffloadStore>> of(Device device) const {
    std::vector<std::shared_ptr<OffloadStore>> made;
    if (device == Device::Cpu) {
      for (const auto& [folder, store] : cpu) made.push_back(store);
    } else if (device == Device::Cuda) {
      if (cuda != nullptr) made.push_back(cuda);
    } else {
      made.push_back(device == Device::MetaCpu ? meta_cpu : meta_cuda);
    }
    return made;
  }
};

/// Never destroyed: tensors with static lifetime may outlive any order of destruction.
Stores& stores() {
  static Stores& instance = *new Stores;
  return instance;
}

}  // namespace

void* OffloadStore::take(std::size_t bytes) {
  void* const place = places_.allocate(bytes);
  if (place == nullptr) {
    throw OffloadError(concat_text("offload: the system grants no more pinned memory: ", format_mebibytes(bytes),
                                   " beyond the ", format_mebibytes(places_.reserved())));
  }
  stats_.held += bytes;
  stats_.peak = std::max(stats_.peak, stats_.held);
  stats_.reserved = places_.reserved();
  return place;
}

void OffloadStore::give(void* place, std::size_t bytes) noexcept {
  places_.release(place);
  stats_.held -= bytes;
}

OffloadStats OffloadStore::stats() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void* PlaceNumbers::take(std::size_t bytes, std::size_t& granted) {
  granted = (bytes + unit - 1) / unit * unit;
  void* const address = reinterpret_cast<void*>(next_);
  next_ += granted;
  return address;
}

std::shared_ptr<OffloadStore> offload_store(Device device, const OffloadOptions& options) {
  Stores& all = stores();
  const std::lock_guard<std::mutex> lock(all.mutex);
  switch (device) {
    case Device::Cpu: {
      const std::string folder = offload_directory(options);
      if (const auto made = all.cpu.find(folder); made != all.cpu.end()) return made->second;
      return all.cpu.emplace(folder, make_file_store(folder)).first->second;
    }
    case Device::Cuda:
      if (all.cuda == nullptr) all.cuda = std::make_shared<PinnedStore>();
      return all.cuda;
    case Device::MetaCpu:
      return all.meta_cpu;
    case Device::MetaCuda:
      return all.meta_cuda;
  }
  throw DeviceError("no such device");
}

std::string offload_directory(const OffloadOptions& options) {
  if (!options.directory.empty()) return options.directory;
  std::error_code error;
  const std::filesystem::path usual = std::filesystem::temp_directory_path(error);
  return error ? "/tmp" : usual.string();
}

void prepare_offload(const OffloadOptions& options) { offload_store(Device::Cpu, options); }

OffloadStats offload_stats(Device device) {
  Stores& all = stores();
  const std::lock_guard<std::mutex> lock(all.mutex);
  OffloadStats sum;
  for (const auto& store : all.of(device)) {
    const OffloadStats stats = store->stats();
    sum.held += stats.held;
    sum.peak += stats.peak;
    sum.reserved += stats.reserved;
  }
  return sum;
}

}  // namespace palimpsest::memory
