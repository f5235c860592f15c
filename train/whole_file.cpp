#include <palimpsest/train/whole_file.hpp>

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include <palimpsest/core/error.hpp>

namespace palimpsest::train {
namespace fs = std::filesystem;

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
  write_temporary("");
  fs::remove(temporary_, ignored);
}

void WholeFile::write(const std::string& text) const {
  if (path_.empty()) return;
  write_temporary(text);
  std::error_code error;
  fs::rename(temporary_, path_, error);
  if (error) fail(error.message());
}

void WholeFile::write_temporary(const std::string& text) const {
  errno = 0;
  std::ofstream out(temporary_, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (out) return;
  const std::string why = errno != 0 ? std::strerror(errno) : "unknown reason";
  std::error_code ignored;
  fs::remove(temporary_, ignored);
  fail(why);
}

void WholeFile::fail(const std::string& why) const {
  throw Error(concat_text("cannot write the report ", name_, ": ", why));
}

}  // namespace palimpsest::train
