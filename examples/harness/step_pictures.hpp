#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "examples/harness/image_data.hpp"
#include "examples/harness/memory_report.hpp"
#include "examples/harness/options.hpp"
#include "examples/harness/report_file.hpp"

namespace palimpsest::harness {

/// The step of a run to look at, from 0: the first with a whole batch after the very first step, which differs from all
/// others; the very first where there is no such step.
std::int64_t step_to_record(const RunLength& length, std::int64_t training_images);

/// The files that show one step of a run: --memory-report, --memory-snapshot, --trace.
class StepPictures {
 public:
  /// Finds out at once whether the files can be written. Throws Error as ReportFile, UsageError where two reports,
  /// --report among them, would be one file, whatever names and links lead there.
  explicit StepPictures(const Options& options);

  /// Whether any is asked for.
  explicit operator bool() const { return report_ || snapshot_ || trace_; }

  /// Writes those that are asked for; calls `facts` if the page is among them. Returns why, for each that could not be
  /// made or written; the others are written all the same, and nothing is thrown: a picture is not worth the run.
  [[nodiscard]] std::vector<std::string> write(const memory::StepTrace& step, const std::string& title,
                                               const std::function<MemoryReport()>& facts) const;

 private:
  ReportFile report_;
  ReportFile snapshot_;
  ReportFile trace_;
};

}  // namespace palimpsest::harness
