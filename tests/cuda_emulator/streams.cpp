// Streams and events: work in order, done when it is given or as late as may be.

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <set>

#include "cuda_runtime.h"

namespace cuda_emulator {
namespace {

/// The work of a stream, by the number in which it was given.
struct Queue {
  std::deque<std::function<void()>> waiting;
  std::uint64_t given = 0;
  std::uint64_t done = 0;

  /// Does what comes before `position`. Work that waits for another stream does that one's first.
  void advance_to(std::uint64_t position) {
    while (done < position) {
      const std::function<void()> work = std::move(waiting.front());
      waiting.pop_front();
      ++done;
      work();
    }
  }
};

struct Streams {
  std::recursive_mutex mutex;
  std::set<std::shared_ptr<Queue>> queues;
  Timing timing = Timing::AtOnce;

  Streams() {
    const char* const wanted = std::getenv("PALIMPSEST_EMULATOR_TIMING");
    if (wanted != nullptr && std::strcmp(wanted, "late") == 0) timing = Timing::Late;
  }
};

Streams& streams() {
  static Streams& instance = *new Streams;
  return instance;
}

}  // namespace
}  // namespace cuda_emulator

struct EmulatedStream {
  std::shared_ptr<cuda_emulator::Queue> queue = std::make_shared<cuda_emulator::Queue>();
};

struct EmulatedEvent {
  std::shared_ptr<cuda_emulator::Queue> queue;  // null before it is recorded
  std::uint64_t position = 0;

  void reach() const {
    if (queue != nullptr) queue->advance_to(position);
  }
};

namespace cuda_emulator {

void set_timing(Timing timing) {
  finish();
  streams().timing = timing;
}

void submit(cudaStream_t stream, std::function<void()> work) {
  const std::lock_guard lock(streams().mutex);
  if (stream == nullptr) return work();
  Queue& queue = *stream->queue;
  queue.waiting.push_back(std::move(work));
  ++queue.given;
  if (streams().timing == Timing::AtOnce) queue.advance_to(queue.given);
}

void finish() {
  const std::lock_guard lock(streams().mutex);
  for (const auto& queue : streams().queues) queue->advance_to(queue->given);
}

}  // namespace cuda_emulator

using cuda_emulator::streams;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(streams().mutex);
  *stream = new EmulatedStream;
  streams().queues.insert((*stream)->queue);
  return cudaSuccess;
}

// Work that is still waiting is done one day, as on a card.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(streams().mutex);
  if (stream == nullptr) {
    cuda_emulator::finish();
  } else {
    stream->queue->advance_to(stream->queue->given);
  }
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  cuda_emulator::submit(stream, [recorded = *event] { recorded.reach(); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(streams().mutex);
  event->queue = stream != nullptr ? stream->queue : nullptr;
  event->position = stream != nullptr ? stream->queue->given : 0;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(streams().mutex);
  event->reach();
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return cudaSuccess;
}
