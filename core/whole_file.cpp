#include <palimpsest/core/whole_file.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include <palimpsest/core/error.hpp>

namespace palimpsest {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const std::string& name, const std::string& why) {
  throw Error(concat_text("cannot write ", name, ": ", why));
}

[[noreturn]] void fail_of(const std::string& name, int error) {
  fail(name, error != 0 ? std::strerror(error) : "unknown reason");
}

/// Waits until the disk has what was written. False, with errno, where it says that it has not.
bool flushed(int file) {
  // Some file systems have nothing to flush of a folder.
  return fsync(file) == 0 || errno == EINVAL;
}

void flush_folder(const fs::path& path) {
  const int folder = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (folder < 0) return;
  flushed(folder);
  close(folder);
}

/// True if an open file still has this name.
bool is_still(int file, const fs::path& path) {
  struct stat opened {};
  struct stat named {};
  return fstat(file, &opened) == 0 && stat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

/// Opens the temporary of that name for this write alone. It may be there, left by a process that was killed.
int open_locked(const std::string& name, const fs::path& temporary) {
  constexpr int attempts = 100;
  for (int i = 0; i < attempts; ++i) {
    const int file = open(temporary.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (file < 0) fail_of(name, errno);
    // File systems without locks leave it to the user that no two write the same file.
    const bool taken = flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    // Another process may have given it the target's name, or removed it, since it was opened.
    if (!taken && is_still(file, temporary)) return file;
    close(file);
    if (taken) fail(name, "another write to it is under way");
  }
  fail(name, "others keep writing to it");
}

}  // namespace

fs::path file_target(const std::string& name) {
  constexpr int most_links = 40;  // as for Linux; more lead round in a circle
  std::error_code error;
  fs::path path = fs::absolute(name, error);
  if (error) return name;
  for (int links = 0; links < most_links && fs::is_symlink(path, error); ++links) {
    path = path.parent_path() / fs::read_symlink(path, error);
  }
  const fs::path whole = fs::weakly_canonical(path, error);
  return error ? path : whole;
}

PendingFile::PendingFile(std::string name, fs::path path)
    : name_(std::move(name)), path_(std::move(path)), temporary_(path_.string() + temporary_suffix) {
  file_ = open_locked(name_, temporary_);
  if (ftruncate(file_, 0) == 0) return;
  const int error = errno;
  drop();
  fail_of(name_, error);
}

PendingFile& PendingFile::operator=(PendingFile&& other) noexcept {
  if (this == &other) return *this;
  drop();
  name_ = std::move(other.name_);
  path_ = std::move(other.path_);
  temporary_ = std::move(other.temporary_);
  file_ = std::exchange(other.file_, -1);
  return *this;
}

PendingFile::~PendingFile() { drop(); }

void PendingFile::drop() noexcept {
  if (file_ < 0) return;
  unlink(temporary_.c_str());  // before the lock goes with the file
  close(std::exchange(file_, -1));
}

void PendingFile::fill(const std::function<void(std::ostream& out)>& body) const {
  errno = 0;
  std::ofstream out(temporary_, std::ios::binary);
  body(out);
  out.close();
  if (!out) fail_of(name_, errno);
}

void PendingFile::commit() {
  if (file_ < 0) return;
  if (!flushed(file_) || rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    drop();
    fail_of(name_, error);
  }
  flush_folder(path_.parent_path());
  close(std::exchange(file_, -1));
}

WholeFile::WholeFile(const std::string& name) : name_(name) {
  if (name.empty()) return;
  path_ = file_target(name);  // what a link points to is replaced, not the link
  std::error_code ignored;
  const fs::file_status status = fs::status(path_, ignored);
  if (fs::exists(status) && !fs::is_regular_file(status)) fail(name_, "there is something else of that name");
  stage([](std::ostream&) {});
}

void WholeFile::write(const std::string& text) const {
  write([&](std::ostream& out) { out << text; });
}

void WholeFile::write(const std::function<void(std::ostream& out)>& body) const { stage(body).commit(); }

PendingFile WholeFile::stage(const std::function<void(std::ostream& out)>& body) const {
  if (path_.empty()) return {};
  PendingFile pending(name_, path_);
  pending.fill(body);
  return pending;
}

}  // namespace palimpsest
