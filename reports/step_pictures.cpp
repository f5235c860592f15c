#include <palimpsest/reports/step_pictures.hpp>

#include <filesystem>
#include <map>

#include <palimpsest/core/error.hpp>
#include <palimpsest/reports/memory_snapshot.hpp>
#include <palimpsest/reports/op_trace.hpp>

namespace palimpsest::reports {

void check_files_differ(std::span<const std::string> names) {
  std::map<std::filesystem::path, std::string> known;
  for (const std::string& name : names) {
    if (name.empty()) continue;
    const auto [file, is_new] = known.emplace(file_target(name), name);
    if (is_new) continue;
    const std::string& other = file->second;
    throw ValueError(concat_text("two files cannot both be written to ", name,
                                 other == name ? "" : concat_text(", which is the file of ", other, ", too")));
  }
}

StepPictures::StepPictures(const Files& files) : page_(files.page), snapshot_(files.snapshot), trace_(files.trace) {
  const std::vector<std::string> names = {files.report, files.page, files.snapshot, files.trace};
  check_files_differ(names);
}

std::vector<std::string> StepPictures::write(const memory::StepTrace& step, const std::string& title,
                                             const std::function<PageFacts()>& facts) const {
  std::vector<std::string> failures;
  const auto write_to = [&](const WholeFile& file, const auto& make) {
    if (!file) return;
    try {
      file.write(make());
    } catch (const std::exception& error) {
      failures.emplace_back(error.what());
    }
  };
  write_to(snapshot_, [&] { return memory_snapshot(step); });
  write_to(trace_, [&] { return op_trace(step, title); });
  write_to(page_, [&] { return memory_page(facts(), step); });
  return failures;
}

}  // namespace palimpsest::reports
