#include <palimpsest/core/whole_file.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include <palimpsest/core/error.hpp>

namespace palimpsest {
namespace fs = std::filesystem;
namespace {

/// Waits until the disk has what was written to a file, or has a folder's names. False where it says that it has not.
bool flush_to_disk(const fs::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  // Some file systems have nothing to flush of a folder.
  const bool done = fsync(file) == 0 || errno == EINVAL;
  close(file);
  return done;
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

WholeFile::WholeFile(const std::string& name) : name_(name) {
  if (name.empty()) return;
  path_ = file_target(name);  // what a link points to is replaced, not the link
  std::error_code ignored;
  const fs::file_status status = fs::status(path_, ignored);
  if (fs::exists(status) && !fs::is_regular_file(status)) fail("there is something else of that name");
  temporary_ = path_.string() + ".tmp" + std::to_string(getpid());
  write_temporary([](std::ostream&) {});
  fs::remove(temporary_, ignored);
}

void WholeFile::write(const std::string& text) const {
  write([&](std::ostream& out) { out << text; });
}

void WholeFile::write(const std::function<void(std::ostream& out)>& body) const {
  if (path_.empty()) return;
  write_temporary(body);
  std::error_code error;
  fs::rename(temporary_, path_, error);
  if (error) fail(error.message());
  flush_to_disk(path_.parent_path());
}

void WholeFile::write_temporary(const std::function<void(std::ostream& out)>& body) const {
  errno = 0;
  std::string why;
  try {
    std::ofstream out(temporary_, std::ios::binary | std::ios::trunc);
    body(out);
    out.close();
    if (out && flush_to_disk(temporary_)) return;
    why = errno != 0 ? std::strerror(errno) : "unknown reason";
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary_, ignored);
    throw;
  }
  std::error_code ignored;
  fs::remove(temporary_, ignored);
  fail(why);
}

void WholeFile::fail(const std::string& why) const {
  throw Error(concat_text("cannot write ", name_, ": ", why));
}

}  // namespace palimpsest
