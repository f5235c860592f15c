#include "examples/harness/step_pictures.hpp"

#include <map>
#include <string>

#include <palimpsest/core/error.hpp>
#include "examples/harness/command_line.hpp"
#include "examples/harness/memory_snapshot.hpp"
#include "examples/harness/op_trace.hpp"

namespace palimpsest::harness {
namespace {

/// Each file would replace the other.
void check_files_differ(const Options& options) {
  std::map<std::filesystem::path, std::string> names;
  for (const std::string& name : {options.report, options.memory_report, options.memory_snapshot, options.trace}) {
    if (name.empty()) continue;
    const auto [file, is_new] = names.emplace(report_target(name), name);
    if (is_new) continue;
    const std::string& other = file->second;
    throw UsageError(concat_text("two reports cannot both be written to ", name,
                                 other == name ? "" : concat_text(", which is the file of ", other, ", too")));
  }
}

}  // namespace

std::int64_t step_to_record(const RunLength& length, std::int64_t training_images) {
  const std::int64_t whole_batches = training_images / length.batch_size;
  for (std::int64_t step = 1; step < length.steps; ++step) {
    if (step % length.steps_per_epoch < whole_batches) return step;
  }
  return 0;
}

StepPictures::StepPictures(const Options& options)
    : report_(options.memory_report), snapshot_(options.memory_snapshot), trace_(options.trace) {
  check_files_differ(options);
}

std::vector<std::string> StepPictures::write(const memory::StepTrace& step, const std::string& title,
                                             const std::function<MemoryReport()>& facts) const {
  std::vector<std::string> failures;
  const auto write_to = [&](const ReportFile& file, const auto& make) {
    if (!file) return;
    try {
      file.write(make());
    } catch (const std::exception& error) {
      failures.emplace_back(error.what());
    }
  };
  write_to(snapshot_, [&] { return memory_snapshot(step); });
  write_to(trace_, [&] { return op_trace(step, title); });
  write_to(report_, [&] { return memory_report_html(facts(), step); });
  return failures;
}

}  // namespace palimpsest::harness
