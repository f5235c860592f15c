#pragma once

#include <filesystem>
#include <functional>
#include <ostream>
#include <string>

namespace palimpsest {

/// The file that a write to this name replaces: the end of its links, which may lead nowhere yet, as
/// one path whatever it was called.
std::filesystem::path file_target(const std::string& name);

/// A file that is always whole, whenever the process or the machine dies: each write goes to a temporary file beside it,
/// which is flushed to the disk and then takes its name.
class WholeFile {
 public:
  /// Finds out at once whether the file can be written. An empty name makes a file that ignores what it is given.
  /// Throws Error, naming the file and the reason.
  explicit WholeFile(const std::string& name);

  /// Throws as the constructor; the file is then as it was.
  void write(const std::string& text) const;
  /// The same for what `body` puts into the stream.
  void write(const std::function<void(std::ostream& out)>& body) const;

  explicit operator bool() const { return !path_.empty(); }

 private:
  std::string name_;
  std::filesystem::path path_;
  std::filesystem::path temporary_;

  [[noreturn]] void fail(const std::string& why) const;
  void write_temporary(const std::function<void(std::ostream& out)>& body) const;
};

}  // namespace palimpsest
