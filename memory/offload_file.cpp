// The file that values of the CPU go to, and the thread that writes and reads it.

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <system_error>
#include <thread>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/memory/offload_store.hpp>

namespace palimpsest::memory {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

/// A write beyond the limit on the size of files sends SIGXFSZ to the thread that writes, which ends the process. While
/// that is blocked, the write fails like one on a full disk. Other threads may do with the signal as the program
/// likes.
void outlive_the_limit_on_files() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

/// A file that no folder lists: the system takes it back when the process ends, however it does.
class NamelessFile {
 public:
  explicit NamelessFile(const std::string& directory) : directory_(directory), descriptor_(open(directory)) {
    const int error = errno;
    if (descriptor_ < 0) {
      throw OffloadError(concat_text("offload: cannot make a file in ", directory, ": ", reason(error)));
    }
  }
  NamelessFile(const NamelessFile&) = delete;
  NamelessFile& operator=(const NamelessFile&) = delete;
  ~NamelessFile() { ::close(descriptor_); }

  void write(const char* from, std::size_t bytes, off_t offset) const {
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t part = ::pwrite(descriptor_, from + done, bytes - done, offset + static_cast<off_t>(done));
      done += moved(part, "write", bytes, "the system takes no more");
    }
  }

  void read(char* to, std::size_t bytes, off_t offset) const {
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t part = ::pread(descriptor_, to + done, bytes - done, offset + static_cast<off_t>(done));
      done += moved(part, "read", bytes, "the file has become shorter");
    }
  }

 private:
  std::string directory_;
  int descriptor_;

  static int open(const std::string& directory) {
    const int descriptor = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    // Not every file system has these; and those kernels that do not know the flag take the folder for the file.
    if (descriptor >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return descriptor;
    std::string name = directory + "/palimpsest-XXXXXX";
    const int named = ::mkostemp(name.data(), O_CLOEXEC);
    if (named >= 0) ::unlink(name.c_str());
    return named;
  }

  /// How much a system call has moved, of which it has said `part`.
  std::size_t moved(ssize_t part, const char* what, std::size_t bytes, const char* why_nothing) const {
    if (part > 0) return static_cast<std::size_t>(part);
    const int error = errno;
    if (part < 0 && error == EINTR) return 0;
    throw OffloadError(concat_text("offload: cannot ", what, ' ', format_mebibytes(bytes), " of a file in ", directory_,
                                   ": ", part < 0 ? reason(error) : why_nothing));
  }
};

class FileStore : public OffloadStore {
 public:
  explicit FileStore(const std::string& directory)
      : OffloadStore(std::make_unique<PlaceNumbers>()),
        file_(directory),
        thread_([this](const std::stop_token& stop) { work(stop); }) {}

  Ticket write(void* place, const void* from, std::size_t bytes) override {
    return give_to_thread([=, this] { file_.write(static_cast<const char*>(from), bytes, offset_of(place)); });
  }
  Ticket read(void* to, const void* place, std::size_t bytes) override {
    return give_to_thread([=, this] { file_.read(static_cast<char*>(to), bytes, offset_of(place)); });
  }

  void finish(Ticket ticket) override {
    std::unique_lock<std::mutex> lock(queue_mutex_);
    progress_.wait(lock, [&] { return done_ >= ticket; });
    const auto failure = failures_.extract(ticket);
    if (!failure.empty()) std::rethrow_exception(failure.mapped());
  }

 private:
  static off_t offset_of(const void* place) {
    return static_cast<off_t>(reinterpret_cast<std::uintptr_t>(place) - PlaceNumbers::offset_base);
  }

  Ticket give_to_thread(std::function<void()> move) {
    const std::lock_guard<std::mutex> lock(queue_mutex_);
    queue_.push_back(std::move(move));
    given_to_thread_.notify_one();
    return ++given_;
  }

  void work(const std::stop_token& stop) {
    outlive_the_limit_on_files();
    std::unique_lock<std::mutex> lock(queue_mutex_);
    while (given_to_thread_.wait(lock, stop, [&] { return !queue_.empty(); })) {
      const std::function<void()> move = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      std::exception_ptr failure;
      try {
        move();
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      ++done_;
      if (failure != nullptr) failures_.emplace(done_, failure);
      progress_.notify_all();
    }
  }

  NamelessFile file_;
  std::mutex queue_mutex_;
  std::condition_variable_any given_to_thread_;
  std::condition_variable progress_;
  std::deque<std::function<void()>> queue_;
  Ticket given_ = 0;
  Ticket done_ = 0;
  std::map<Ticket, std::exception_ptr> failures_;
  std::jthread thread_;  // last: it ends before what it uses goes
};

}  // namespace

std::shared_ptr<OffloadStore> make_file_store(const std::string& directory) {
  try {
    return std::make_shared<FileStore>(directory);
  } catch (const std::system_error& error) {
    throw OffloadError(concat_text("offload: cannot start a thread: ", error.what()));
  }
}

}  // namespace palimpsest::memory
