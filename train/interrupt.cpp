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
  signal_noted = 1;
}

void handle_with(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  signal_noted = 0;
  handle_with(note);
}

InterruptGuard::~InterruptGuard() {
  handle_with(SIG_DFL);
  signal_noted = 0;
}

bool interrupted() { return signal_noted != 0; }

}  // namespace palimpsest::train
