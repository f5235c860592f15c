#pragma once

namespace palimpsest::train {

/// While it lives, the first SIGINT or SIGTERM is only noted, so that the current step can end; the second one ends the
/// process at once. Inside another one it does nothing: the outer one decides how long a signal is known.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// True if the living guard has noted a signal.
bool interrupted();
/// Its number; 0 if there was none.
int interrupting_signal();

}  // namespace palimpsest::train
