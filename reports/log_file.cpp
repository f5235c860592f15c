#include <palimpsest/reports/log_file.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <palimpsest/core/error.hpp>

namespace palimpsest::reports {
namespace {

constexpr mode_t everybody_reads = 0644;

/// Writes all of it unless the system refuses; a signal is no refusal.
bool write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

LogFile::LogFile(std::filesystem::path path, std::string begin) : path_(std::move(path)), begin_(std::move(begin)) {
  file_ = ::open(path_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, everybody_reads);
  if (file_ < 0) fail();
  // File systems without locks are no reason to refuse: only a lock that somebody holds is.
  if (::flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(file_);
    throw ValueError(concat_text("the log ", path_.string(), " is being written by a run that has not ended"));
  }
  size_ = measured();
}

LogFile::~LogFile() { ::close(file_); }

std::string LogFile::content() const {
  std::string text(size_, '\0');
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t got = ::pread(file_, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail();
    if (got == 0) text.resize(done);
    done += static_cast<std::size_t>(got);
  }
  return text;
}

void LogFile::cut(std::size_t bytes) {
  if (::ftruncate(file_, static_cast<off_t>(bytes)) != 0) fail();
  size_ = bytes;
}

bool LogFile::append(std::string_view row) {
  if (size_ == 0 && waiting_.empty()) waiting_ = begin_;
  waiting_ += row;
  ++waiting_rows_;
  return retry();
}

/// Bytes that were written before the system refused would be a torn row in the middle of the file: they go first.
bool LogFile::retry() {
  if (torn_ && ::ftruncate(file_, static_cast<off_t>(size_)) != 0) return false;
  torn_ = !write_all(file_, waiting_);
  if (torn_) {
    const int why = errno;
    torn_ = ::ftruncate(file_, static_cast<off_t>(size_)) != 0;
    errno = why;
    return false;
  }
  size_ += waiting_.size();
  waiting_.clear();
  waiting_rows_ = 0;
  return true;
}

std::size_t LogFile::measured() const {
  struct stat facts {};
  if (::fstat(file_, &facts) != 0) fail();
  return static_cast<std::size_t>(facts.st_size);
}

void LogFile::fail() const {
  throw Error(concat_text("cannot write the log ", path_.string(), ": ", std::strerror(errno)));
}

}  // namespace palimpsest::reports
