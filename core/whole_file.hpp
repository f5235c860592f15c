#pragma once

#include <filesystem>
#include <functional>
#include <ostream>
#include <string>

namespace palimpsest {

/// The end of the names of temporaries.
inline constexpr const char* temporary_suffix = ".tmp";

/// The file that a write to this name replaces: the end of its links, which may lead nowhere yet, as
/// one path whatever it was called.
std::filesystem::path file_target(const std::string& name);

/// A file that has been written, but not yet under its name: a temporary beside it, which goes with this object unless
/// commit() has given it the name. One write to a file is under way at a time, in this process or another.
class PendingFile {
 public:
  /// A file that nobody asked for: commit() does nothing.
  PendingFile() = default;
  PendingFile(PendingFile&& other) noexcept { *this = std::move(other); }
  PendingFile& operator=(PendingFile&& other) noexcept;
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile();

  /// Flushes what was written to the disk, gives it its name, and flushes the folder: this waits for the disk, and any
  /// thread may do it. Throws Error, naming the file and the reason; the file is then as it was.
  void commit();

 private:
  friend class WholeFile;

  std::string name_;  // for messages
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int file_ = -1;  // the temporary, locked; -1: nothing is pending

  /// Begins an empty temporary.
  PendingFile(std::string name, std::filesystem::path path);
  void fill(const std::function<void(std::ostream& out)>& body) const;
  void drop() noexcept;
};

/// A file that is always whole, whenever the process or the machine dies: each write goes to a temporary file beside
/// it, which is flushed to the disk and then takes its name. The temporary is called like the file with ".tmp" at the
/// end; a process that was killed may leave it, and the next write takes it over.
class WholeFile {
 public:
  /// Finds out at once whether the file can be written. An empty name makes a file that ignores what it is given.
  /// Throws Error, naming the file and the reason.
  explicit WholeFile(const std::string& name);

  /// Throws as the constructor; the file is then as it was.
  void write(const std::string& text) const;
  /// The same for what `body` puts into the stream, which can seek.
  void write(const std::function<void(std::ostream& out)>& body) const;
  /// The first part of a write, which goes no further than the system's memory for files. Throws as the constructor,
  /// and what `body` throws. The file is as it was until PendingFile::commit().
  PendingFile stage(const std::function<void(std::ostream& out)>& body) const;

  explicit operator bool() const { return !path_.empty(); }

 private:
  std::string name_;
  std::filesystem::path path_;
};

}  // namespace palimpsest
