#pragma once

namespace palimpsest::harness {

/// While it lives, the first SIGINT or SIGTERM is only noted, so that the current step can end; the second one ends the
/// process at once. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// Whether a signal has been noted.
bool interrupted();

}  // namespace palimpsest::harness
