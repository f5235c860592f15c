#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <palimpsest/memory/planner/step_trace.hpp>
#include <palimpsest/reports/policy_forecasts.hpp>

namespace palimpsest::reports {

/// The facts on the page beside the step itself.
struct PageFacts {
  std::string model = "";
  std::string policy = "";
  std::string device = "";
  std::string data = "";
  std::int64_t batch_size = 0;
  std::int64_t step = 0;  ///< the recorded one, from 1
  std::int64_t parameters = 0;
  std::size_t predicted_peak = 0;  ///< bytes, from the forecast made before the run
  std::size_t reserved = 0;        ///< bytes taken from the system
  std::vector<PolicyForecast> policies = {};
  std::vector<Saving> savings = {};
};

/// The page's data in JSON: facts, and the record as columns and rows of numbers in which strings are indices of
/// "strings". An event is the index of its allocation, whose first mention takes the memory and whose second gives it
/// back; or [tag, bytes] for the release of what is older than the step.
std::string memory_page_data(const PageFacts& facts, const memory::StepTrace& record);

/// One page of HTML that needs nothing but a browser: the step's bytes over time by tag, the owners of the peak, the
/// policies side by side and the savings. Lists that are empty are said to be.
std::string memory_page(const PageFacts& facts, const memory::StepTrace& record);

}  // namespace palimpsest::reports
