#include <palimpsest/core/parallel.hpp>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include <palimpsest/core/error.hpp>

#if defined(__GLIBC__)
#include <pthread.h>
#endif

namespace palimpsest {
namespace {

thread_local bool inside_parallel_for = false;

constexpr std::size_t kernel_stack_bytes = 880 << 10;

/// The addresses of the calling thread's stack; empty where they are not known.
struct Stack {
  const char* low = nullptr;
  std::size_t bytes = 0;

  Stack() {
#if defined(__GLIBC__)
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
    void* begin = nullptr;
    if (pthread_attr_getstack(&attributes, &begin, &bytes) == 0) low = static_cast<const char*>(begin);
    pthread_attr_destroy(&attributes);
#endif
  }
};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The jobs of a training step follow each other within microseconds, so a waiting helper spins a little before it
// sleeps.
class Pool {
 public:
  using Body = void (*)(void*, std::int64_t);

  explicit Pool(int threads)
      : threads_(threads), spins_(threads <= static_cast<int>(std::thread::hardware_concurrency()) ? spin_limit : 0) {
    helpers_.reserve(static_cast<std::size_t>(threads) - 1);
    try {
      for (int thread = 1; thread < threads; ++thread) {
        helpers_.emplace_back([this, thread] { help(thread); });
      }
    } catch (const std::system_error& error) {
      const std::size_t started = helpers_.size();
      stop();
      throw Error(concat_text("thread ", started + 2, " of ", threads, " cannot be started: ", error.what()));
    }
  }

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  ~Pool() { stop(); }

  int threads() const { return threads_; }

  void run(std::int64_t tasks, Body body, void* context) {
    const std::lock_guard<std::mutex> one_caller(callers_);
    tasks_ = tasks;
    body_ = body;
    context_ = context;
    running_.store(threads_ - 1, std::memory_order_relaxed);
    publish();
    work(0);
    for (int spins = 0; running_.load(std::memory_order_acquire) != 0; ++spins) {
      spins < spins_ ? relax() : std::this_thread::yield();
    }
  }

 private:
  static constexpr int spin_limit = 20000;

  void stop() {
    stop_ = true;
    publish();
    for (std::thread& helper : helpers_) helper.join();
    helpers_.clear();
  }

  void publish() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

  void work(int thread) {
    inside_parallel_for = true;
    const std::int64_t last = tasks_ * (thread + 1) / threads_;
    for (std::int64_t task = tasks_ * thread / threads_; task < last; ++task) body_(context_, task);
    inside_parallel_for = false;
  }

  void help(int thread) {
    std::uint64_t seen = 0;
    const auto called = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    while (true) {
      for (int spins = 0; spins < spins_ && !called(); ++spins) relax();
      if (!called()) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      work(thread);
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int threads_;
  const int spins_;  // none where threads share cores: a spinning one would keep the core from one that works
  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> stop_{false};
  std::int64_t tasks_ = 0;
  Body body_ = nullptr;
  void* context_ = nullptr;
  std::vector<std::thread> helpers_;
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> instance =
      std::make_unique<Pool>(static_cast<int>(std::min(std::max(std::thread::hardware_concurrency(), 1U), 256U)));
  return instance;
}

}  // namespace

int thread_count() { return pool()->threads(); }

void set_thread_count(int threads) {
  if (threads < 1 || threads > 256) throw ValueError(concat_text("threads must be 1 to 256, got ", threads));
  if (threads != thread_count()) pool() = std::make_unique<Pool>(threads);
}

void require_stack() {
  static thread_local const Stack stack;
  const char here = 0;
  const auto left = static_cast<std::size_t>(&here - stack.low);
  // A program may run on a stack of its own making, of which nothing is known.
  if (left >= kernel_stack_bytes || left >= stack.bytes) return;
  throw Error(concat_text("this thread has ", left >> 10, " KiB of stack left of ", stack.bytes >> 10,
                          " KiB, expected at least ", kernel_stack_bytes >> 10, " KiB for convolutions"));
}

void detail::parallel_for(std::int64_t tasks, void (*body)(void*, std::int64_t), void* context) {
  Pool& threads = *pool();
  if (tasks <= 1 || threads.threads() == 1 || inside_parallel_for) {
    for (std::int64_t task = 0; task < tasks; ++task) body(context, task);
    return;
  }
  threads.run(tasks, body, context);
}

}  // namespace palimpsest
