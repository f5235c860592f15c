#pragma once

#include <sys/resource.h>

#include <csignal>

namespace palimpsest::testing {

/// No file of this process may grow beyond so many bytes while it lives: a disk that is full. A write beyond them sends
/// SIGXFSZ, whose action is `handler` meanwhile; the system's default ends the process.
class FileLimit {
 public:
  using Handler = void (*)(int);

  explicit FileLimit(rlim_t bytes, Handler handler = SIG_IGN) : handler_(std::signal(SIGXFSZ, handler)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limited{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  Handler handler_;
  rlimit before_{};
};

}  // namespace palimpsest::testing
