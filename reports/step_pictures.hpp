#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include <palimpsest/core/whole_file.hpp>
#include <palimpsest/reports/memory_page.hpp>

namespace palimpsest::reports {

/// The files that a run writes; an empty name is no file.
struct Files {
  std::string report = "";    ///< the run in JSON, after every epoch and at the end
  std::string page = "";      ///< a step's memory as a page of HTML
  std::string snapshot = "";  ///< a step's memory as PyTorch's memory_viz reads it
  std::string trace = "";     ///< a step's ops as Perfetto and chrome://tracing read them
  std::string log_dir = "";   ///< the run's log, a folder: see RunLog
};

/// Throws ValueError if two of these names are of one file, whatever links lead there: each write would replace the
/// other. Empty names are of none.
void check_files_differ(std::span<const std::string> names);

/// The files that show one step of a run: page, snapshot, trace.
class StepPictures {
 public:
  /// Finds out at once whether the files can be written. Throws Error as WholeFile, ValueError if two of the
  /// files, the report among them, would be one, whatever names and links lead there.
  explicit StepPictures(const Files& files);

  /// True if any is asked for.
  explicit operator bool() const { return page_ || snapshot_ || trace_; }

  /// Writes those that are asked for; calls `facts` if the page is among them. Returns why, for each that could not be
  /// made or written; the others are written all the same, and nothing is thrown: a picture is not worth the run.
  [[nodiscard]] std::vector<std::string> write(const memory::StepTrace& step, const std::string& title,
                                               const std::function<PageFacts()>& facts) const;

 private:
  WholeFile page_;
  WholeFile snapshot_;
  WholeFile trace_;
};

}  // namespace palimpsest::reports
