#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <palimpsest/reports/log_file.hpp>
#include <palimpsest/reports/run_history.hpp>
#include <palimpsest/train/trainer.hpp>

namespace palimpsest::reports {

/// A training step as a log has it.
struct LogStep {
  double loss = 0;
  double learning_rate = 0;
  std::int64_t samples = 0;  ///< of its batch
  std::size_t peak = 0;      ///< bytes in use at once, at most: train::PeakMeter::take_lap()
};

/// The run so far, where a log goes on with one.
struct LogResumed {
  std::int64_t steps = 0;           ///< that were done, which may be none
  std::vector<double> losses = {};  ///< of these steps, if they are known: by them a log of another run is found out
};

/// Finds out whether a folder, which is made if need be, can have a log. Throws Error, naming the file and the reason,
/// if nothing can be written there; ValueError if it has a log and this is not the run's continuation.
void check_log(const std::string& folder, bool resumed);

/// The log of a run: a folder with its steps and evaluations as CSV, as JSON lines and as events for TensorBoard, and
/// with a page (docs/formats.md). A row is written as a whole when it is known.
///
///     reports::RunLog log("run1", reports::log_facts(task, options));
///     log.follow(trainer);
///     trainer.run();
///     log.finish();
///
/// A loop of one's own calls step() and evaluated() instead of follow(). While the folder has no place left, rows wait:
/// there is one warning, every further row tries again, and what is missing in the end is said.
class RunLog {
 public:
  using Warn = std::function<void(const std::string&)>;

  /// `resumed`: the run goes on where an earlier one has left off. Rows of later steps are then dropped and so is a row
  /// without an end; rows that should be there and are not are warned of. `warn` gets a line at a time; by default it
  /// goes to standard error. Throws as check_log(); DataError, naming the line, if the folder has a log that is not
  /// this run's, which then stays as it was.
  RunLog(const std::string& folder, LogFacts facts, const std::optional<LogResumed>& resumed = std::nullopt,
         Warn warn = nullptr);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  /// The next step has been done. Its samples per second are over the time since the row before, without evaluations
  /// and pages; the first has none.
  void step(const LogStep& step);
  /// The metric of the model as it is after the last step. A second one of the same step is not written.
  void evaluated(double metric);
  /// Does both for each step and evaluation of `trainer`, which must not run once this is gone.
  void follow(train::Trainer& trainer);

  /// Steps in the log, with those of the runs before it.
  std::int64_t steps() const { return steps_; }
  /// Writes the page of what there is. A failure is a warning.
  void write_page();
  /// Writes the page and what still waits. False, after a warning, if something could not be written. The destructor
  /// calls it if nobody has.
  bool finish();

 private:
  using Clock = std::chrono::steady_clock;

  std::string folder_;
  LogFacts facts_;
  Warn warn_;
  std::optional<LogFile> step_rows_, evaluation_rows_, lines_, events_;
  std::int64_t steps_ = 0;
  std::int64_t last_evaluated_ = -1;
  std::optional<Clock::time_point> since_;  // the row before
  bool warned_ = false;                     // rows wait
  bool finished_ = false;
  bool page_failed_ = false;

  std::array<LogFile*, 4> files() { return {&*step_rows_, &*evaluation_rows_, &*lines_, &*events_}; }
  void resume(const LogResumed& resumed);
  void add(LogFile& file, const std::string& row);
  void tell();
  std::string path(const char* name) const;
};

}  // namespace palimpsest::reports
