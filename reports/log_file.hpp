#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace palimpsest::reports {

/// A file that grows at its end by whole rows, one write each and in append mode: a process that is killed leaves none
/// in part. One process at a time writes it.
class LogFile {
 public:
  /// Opens the file, which is made if it is not there; `begin` stands before the first row of one that is empty. Throws
  /// Error, naming the file and the reason, where that fails; ValueError if another process writes it.
  LogFile(std::filesystem::path path, std::string begin);
  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// All of it. Throws Error.
  std::string content() const;
  /// Forgets all behind the first `bytes`. Throws Error.
  void cut(std::size_t bytes);

  /// Writes a row, after those that could not be written before. Returns false, with the reason in errno, if there is
  /// no place: the file is then as it was and the rows wait for the next call, or for retry().
  bool append(std::string_view row);
  bool retry();
  /// Rows that wait.
  std::size_t waiting() const { return waiting_rows_; }

 private:
  std::filesystem::path path_;
  std::string begin_;
  int file_ = -1;
  std::size_t size_ = 0;  // of whole rows
  bool torn_ = false;     // there is a part of a row behind them
  std::string waiting_;
  std::size_t waiting_rows_ = 0;

  std::size_t measured() const;
  [[noreturn]] void fail() const;
};

}  // namespace palimpsest::reports
