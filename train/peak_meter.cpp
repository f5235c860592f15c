#include <palimpsest/train/peak_meter.hpp>

#include <algorithm>
#include <fstream>
#include <string>

namespace palimpsest::train {

PeakMeter::PeakMeter(Device device) : device_(device) { allocator(device_).reset_peak(); }

PeakMeter::Pause::Pause(PeakMeter& meter) : meter_(meter) {
  meter_.seen_ = meter_.peak();
  meter_.paused_ = true;
}

PeakMeter::Pause::~Pause() {
  Allocator& memory = allocator(meter_.device_);
  meter_.seen_.reserved = std::max(meter_.seen_.reserved, memory.stats().peak_reserved);
  memory.reset_peak();
  meter_.paused_ = false;
}

MemoryPeak PeakMeter::peak() const {
  const MemoryStats stats = allocator(device_).stats();
  MemoryPeak result = seen_;
  result.reserved = std::max(result.reserved, stats.peak_reserved);
  if (!paused_ && stats.peak > result.total) {
    result.total = stats.peak;
    result.by_tag = stats.peak_by_tag;
  }
  return result;
}

std::size_t PeakMeter::live() const { return allocator(device_).stats().live; }

std::size_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
  return 0;
}

}  // namespace palimpsest::train
