#pragma once

#include <cstdint>

namespace palimpsest {

/// Number of threads that parallel_for uses, the caller's own included.
int thread_count();

/// Sets it. Throws ValueError unless 1 <= threads <= 256, Error where the system starts no more threads. Must not be
/// called while a parallel_for runs.
void set_thread_count(int threads);

/// Sees to it that the calling thread has the stack that the kernels of convolutions take, up to 800 KiB, and some
/// more. Throws Error where it has less than that left; where a stack's limits are not known nothing is thrown.
void require_stack();

namespace detail {
void parallel_for(std::int64_t tasks, void (*body)(void*, std::int64_t), void* context);
}

/// Runs body(task) for every task in [0, tasks), spread over the threads in a fixed partition: thread t of T runs the
/// tasks [tasks * t / T, tasks * (t + 1) / T) in ascending order. Returns when all are done. `body` must not throw, and
/// a parallel_for inside it runs on the calling thread alone.
///
/// The result of a task must not depend on the number of threads: split work into tasks by shapes only, and results are
/// then the same bits for any number of threads.
template <class Body>
void parallel_for(std::int64_t tasks, const Body& body) {
  detail::parallel_for(
      tasks, [](void* context, std::int64_t task) { (*static_cast<const Body*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace palimpsest
