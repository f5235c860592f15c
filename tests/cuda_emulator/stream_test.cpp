// The emulator's streams: work that is done late, and what shows by it.

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include <palimpsest/core/device.hpp>
#include <palimpsest/datasets/feed.hpp>
#include <palimpsest/datasets/synthetic.hpp>
#include "cuda_runtime.h"

namespace palimpsest {
namespace {

using cuda_emulator::Timing;

class EmulatorStreams : public testing::TestWithParam<Timing> {
 protected:
  EmulatorStreams() { cuda_emulator::set_timing(GetParam()); }
  ~EmulatorStreams() override { cuda_emulator::set_timing(Timing::AtOnce); }

  static bool late() { return GetParam() == Timing::Late; }
};

TEST_P(EmulatorStreams, WorkIsDoneWhenSomebodyWaitsForItAtTheLatest) {
  cudaStream_t a = nullptr;
  cudaStream_t b = nullptr;
  cudaEvent_t event = nullptr;
  cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  std::array<int, 3> from = {1, 2, 3};
  std::array<int, 3> to = {};
  const auto copy = [&](int i, cudaStream_t stream) {
    cudaMemcpyAsync(&to[i], &from[i], sizeof(int), cudaMemcpyDefault, stream);
  };
  copy(0, a);
  cudaEventRecord(event, a);
  copy(1, a);
  cudaStreamWaitEvent(b, event, 0);
  cudaEventRecord(event, b);  // what has waited for the event still waits for what it was
  copy(2, b);
  EXPECT_EQ(to, late() ? (std::array{0, 0, 0}) : from);
  cudaStreamSynchronize(b);
  EXPECT_EQ(to, late() ? (std::array{1, 0, 3}) : from);
  cudaStreamSynchronize(a);
  EXPECT_EQ(to, from);
  cudaEventDestroy(event);
  cudaStreamDestroy(b);
  cudaStreamDestroy(a);
}

/// The sum of what a feed serves in some epochs, cut short after `limit` batches each; the host asks only at the end.
std::vector<float> served(const datasets::ImageSet& images, const datasets::LoaderOptions& spec, Device device,
                          int limit) {
  datasets::Feed feed(images, spec, device);
  const std::size_t floats = static_cast<std::size_t>(feed.shape().count());
  std::vector<Buffer> kept;
  std::vector<std::size_t> sizes;
  for (int epoch = 0; epoch < 3; ++epoch) {
    feed.start_epoch(epoch);
    for (int i = 0; i < limit; ++i) {
      const auto batch = feed.next();
      if (!batch) break;
      kept.emplace_back(device, floats * sizeof(float), Tag::Data);
      const Buffer labels(device, static_cast<std::size_t>(spec.batch_size) * sizeof(std::int32_t), Tag::Data);
      feed.write(kept.back().as<float>(), labels.as<std::int32_t>());
      sizes.push_back(static_cast<std::size_t>(batch->shape.count()));
    }
  }
  std::vector<float> values;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    std::vector<float> own(sizes[i]);
    copy_bytes(own.data(), Device::Cpu, kept[i].data(), device, own.size() * sizeof(float));
    values.insert(values.end(), own.begin(), own.end());
  }
  return values;
}

TEST_P(EmulatorStreams, AFeedOrdersItsCopiesWithoutTheHostsHelp) {
  const datasets::ImageSet images = datasets::synthetic({.count = 41, .channels = 3, .height = 5, .width = 7});
  for (const int workers : {0, 1, 3}) {
    for (const int limit : {1, 2, 4, 100}) {
      datasets::LoaderOptions spec;
      spec.batch_size = 6;
      spec.workers = workers;
      spec.pad_to = 8;
      spec.augmentation = {.flip = true, .pad = 2};
      EXPECT_EQ(served(images, spec, Device::Cuda, limit), served(images, spec, Device::Cpu, limit))
          << workers << " workers, " << limit << " batches of each epoch";
    }
  }
}

TEST_P(EmulatorStreams, ACopyWaitsForTheKernelsBeforeItAndOthersForTheCopy) {
  constexpr std::size_t bytes = 256;
  const std::unique_ptr<MemorySource> pinned = make_pinned_memory();
  std::size_t granted = 0;
  auto* const host = static_cast<unsigned char*>(pinned->take(bytes, granted));
  const Buffer card(Device::Cuda, bytes, Tag::Data);
  const Buffer reader(Device::Cuda, bytes, Tag::Data);
  const auto on_card = [&](const Buffer& buffer) {
    unsigned char first = 0;
    copy_bytes(&first, Device::Cpu, buffer.data(), Device::Cuda, 1);
    return first;
  };
  // A queue that goes waits for its own copies, and so for what they wait for.
  fill_bytes(card.data(), Device::Cuda, 1, bytes);
  make_copy_queue()->copy(host, card.data(), bytes);
  EXPECT_EQ(host[0], 1);
  // Earlier readers of the memory see nothing of a copy into it; those behind use() do.
  host[0] = 2;
  copy_bytes(reader.data(), Device::Cuda, card.data(), Device::Cuda, bytes);
  make_copy_queue()->copy(card.data(), host, bytes);
  EXPECT_EQ(on_card(reader), 1);
  EXPECT_EQ(on_card(card), 2);
  // Behind a copy of which nobody has asked for the end, even if its event has served others since.
  std::unique_ptr<CopyQueue> copies = make_copy_queue();
  host[0] = 3;
  const std::uint64_t first = copies->copy(card.data(), host, bytes);
  for (int i = 0; i < 40; ++i) copies->copy(host + 1, card.data(), 1);
  copies->use(first);
  EXPECT_EQ(on_card(card), 3);
  copies = nullptr;  // the last of them writes to what goes now
  pinned->give(host, granted);
}

INSTANTIATE_TEST_SUITE_P(Timings, EmulatorStreams, testing::Values(Timing::AtOnce, Timing::Late),
                         [](const auto& info) { return info.param == Timing::Late ? "Late" : "AtOnce"; });

}  // namespace
}  // namespace palimpsest
