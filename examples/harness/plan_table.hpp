#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "examples/harness/largest_fit.hpp"
#include "examples/harness/memory_choice.hpp"

namespace palimpsest::harness {

/// The flag that sets a model's depth and the depths that there are: first, first + step, ...
struct DepthFlag {
  std::int64_t* value;
  std::int64_t first;
  std::int64_t step;
};

/// What a training step takes under one policy.
struct PlanRow {
  std::string policy;
  memory::StepForecast forecast;
  memory::RecipeCounts recipes;
  bool planned = false;                     ///< for a budget
  std::optional<LargestFit> largest_batch;  ///< that fits the budget
  std::optional<LargestFit> largest_depth;  ///< likewise; none where the rules fit no net that is shallow enough
  std::string note{};                       ///< why the row is not what was asked for
};

/// A row for each policy that applies, for what --memory asks for if that is none of them, and, where --budget is
/// given, for the planner's choice within it. With a budget, too, the largest batch and depth that stay within it
/// (training, and the evaluation unless it is off); deeper nets than about a thousand layers, or twice what was asked
/// for, are not looked at. `each` is called with every row as soon as it is known. Throws UsageError for what the flags
/// are to blame for.
std::vector<PlanRow> plan_rows(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                               Device device, const std::optional<DepthFlag>& depth,
                               const std::function<void(const PlanRow&)>& each = nullptr);

/// The rows as a table, each printed when it is known, and which policy each block has under --memory.
void print_plan(std::ostream& out, const std::string& model, const MakeModel& make_model, const Options& options,
                const TrainingDefaults& defaults, Device device, const std::optional<DepthFlag>& depth);

}  // namespace palimpsest::harness
