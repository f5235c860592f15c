#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "examples/harness/image_data.hpp"
#include "examples/harness/run_record.hpp"

namespace palimpsest::harness {

/// "45 s", "4:32", "1:02:03".
std::string format_duration(double seconds);

/// Tells on standard error how a run is getting on: a line that is rewritten as it goes where that is a terminal, and
/// one that stays for every epoch. Nothing if `quiet`.
class Progress {
 public:
  Progress(const RunLength& length, bool quiet);
  /// Takes the rewritten line away.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// After a step of epoch `epoch` (from 0): the record, the bytes in use now and at the peak.
  void step(std::int64_t epoch, const RunRecord& record, std::size_t live, std::size_t peak);
  void evaluating(std::int64_t images, std::int64_t of);
  /// After an epoch with this mean loss.
  void epoch(std::int64_t epoch, double loss, const RunRecord& record);
  /// A line that stays, on standard error, even if `quiet`.
  void warn(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;

  RunLength length_;
  bool quiet_;
  bool terminal_;
  bool written_ = false;  // there is a line to take away
  Clock::time_point last_{};

  void rewrite(const std::string& line);
  void clear();
};

}  // namespace palimpsest::harness
