#include <palimpsest/train/peak_meter.hpp>

#include <algorithm>
#include <fstream>
#include <string>

namespace palimpsest::train {

namespace {

std::size_t above(std::size_t bytes, std::size_t before) { return bytes - std::min(bytes, before); }

}  // namespace

PeakMeter::PeakMeter(Device device, const MemoryStats& before) : device_(device), before_(before) {
  allocator(device_).reset_peak();
}

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
  const std::size_t total = above(stats.peak, before_.live);
  if (!paused_ && total > result.total) {
    result.total = total;
    result.by_tag = stats.peak_by_tag;
    for (std::size_t tag = 0; tag < result.by_tag.size(); ++tag) {
      result.by_tag[tag] = above(result.by_tag[tag], before_.live_by_tag[tag]);
    }
  }
  return result;
}

std::size_t PeakMeter::take_lap() {
  Allocator& memory = allocator(device_);
  seen_ = peak();
  const std::size_t lap = above(memory.stats().peak, before_.live);
  memory.reset_peak();
  return lap;
}

std::size_t PeakMeter::live() const { return above(allocator(device_).stats().live, before_.live); }

std::size_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
  return 0;
}

}  // namespace palimpsest::train
