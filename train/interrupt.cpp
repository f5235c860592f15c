#include <palimpsest/train/interrupt.hpp>

#include <csignal>

namespace palimpsest::train {
namespace {

volatile std::sig_atomic_t signal_noted = 0;

void note(int signal) {
  if (signal_noted != 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  signal_noted = signal;
}

int guards = 0;

/// The actions of the program, which come back with the end of the guard.
struct sigaction before_interrupt {
}, before_termination{};

}  // namespace

InterruptGuard::InterruptGuard() {
  if (guards++ > 0) return;
  signal_noted = 0;
  struct sigaction action {};
  action.sa_handler = note;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before_interrupt);
  sigaction(SIGTERM, &action, &before_termination);
}

InterruptGuard::~InterruptGuard() {
  if (--guards > 0) return;
  sigaction(SIGINT, &before_interrupt, nullptr);
  sigaction(SIGTERM, &before_termination, nullptr);
  signal_noted = 0;
}

bool interrupted() { return signal_noted != 0; }
int interrupting_signal() { return signal_noted; }

}  // namespace palimpsest::train
