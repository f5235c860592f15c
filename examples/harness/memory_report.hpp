#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::harness {

/// A change that brings the peak of a step down.
struct Saving {
  double fraction = 0;      ///< of the peak that was asked for: 0.1 for a tenth
  std::size_t peak = 0;     ///< bytes after the change
  double time_factor = 0;   ///< predicted time of a step against now
  std::string change = "";  ///< what to do, for people
};

/// What a step would need under a policy.
struct PolicyForecast {
  std::string policy;
  std::size_t peak = 0;
  TagBytes by_tag{};       ///< at the peak; adds up to it
  double operations = 0;   ///< of the whole step; a multiply-add counts as two
  double time_factor = 0;  ///< predicted time of a step against store-all's
};

/// What the page says beside the step itself.
struct MemoryReport {
  std::string model;
  std::string policy;
  std::string device;
  std::string data;
  std::int64_t batch_size = 0;
  std::int64_t step = 0;  ///< the recorded one, from 1
  std::int64_t parameters = 0;
  std::size_t predicted_peak = 0;  ///< bytes, from the forecast made before the run
  std::size_t reserved = 0;        ///< bytes taken from the system
  std::vector<PolicyForecast> policies;
  std::vector<Saving> savings;
};

/// The page's data: facts, and the record as columns and rows of numbers in which strings are indices of "strings".
/// An event is the index of its allocation, whose first mention takes the memory and whose second gives it back; or
/// [tag, bytes] for the release of what is older than the step.
nlohmann::ordered_json memory_report_data(const MemoryReport& facts, const memory::StepTrace& record);

/// One page of HTML that needs nothing but a browser: the step's bytes over time by tag, the owners of the peak, the
/// policies side by side and the savings. Lists that are empty are said to be.
std::string memory_report_html(const MemoryReport& facts, const memory::StepTrace& record);

}  // namespace palimpsest::harness
