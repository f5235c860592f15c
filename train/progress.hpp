#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>

#include <palimpsest/train/options.hpp>
#include <palimpsest/train/run_record.hpp>

namespace palimpsest::train {

/// "45 s", "4:32", "1:02:03".
std::string format_duration(double seconds);
/// A value of the task's metric: "91.25 %", or "0.0123" where it is no share.
std::string format_metric(const Task& task, double value);

/// Tells on standard error how a run is getting on: a line that is rewritten as it goes where that is a terminal; and
/// a line for every epoch where it is told to. Nothing if Options::quiet.
class Progress {
 public:
  /// `task` must outlive it.
  Progress(const Task& task, const Options& options);
  /// Takes the rewritten line away.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// After a step of epoch `epoch` (from 0): the record, the bytes in use now and at the peak.
  void step(std::int64_t epoch, const RunRecord& record, std::size_t live, std::size_t peak);
  /// After so many samples of an evaluation.
  void evaluating(std::int64_t samples);
  /// After an epoch with this mean loss: a line for `out`.
  void epoch(std::int64_t epoch, double loss, const RunRecord& record, std::ostream& out);
  /// A line that stays, on standard error, even if quiet.
  void warn(const std::string& line);
  /// Takes the rewritten line away.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  const Task& task_;
  RunLength length_;
  bool quiet_;
  bool terminal_;
  bool written_ = false;  // there is a line to take away
  Clock::time_point last_{};

  void rewrite(const std::string& line);
};

}  // namespace palimpsest::train
