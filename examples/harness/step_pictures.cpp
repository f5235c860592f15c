#include "examples/harness/step_pictures.hpp"

#include <map>
#include <string>

#include "core/error.hpp"
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

void StepPictures::write(const memory::StepRecord& step, const std::string& title,
                         const std::function<MemoryReport()>& facts) const {
  if (snapshot_) snapshot_.write(memory_snapshot(step));
  if (trace_) trace_.write(op_trace(step, title));
  if (report_) report_.write(memory_report_html(facts(), step));
}

}  // namespace palimpsest::harness
