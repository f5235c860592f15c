#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include <palimpsest/reports/largest_fit.hpp>
#include <palimpsest/train/memory_choice.hpp>

namespace palimpsest::reports {

/// The depths that a model can have: first, first + step, ...
struct Depths {
  std::int64_t given = 0;  ///< the task's own
  std::int64_t first = 1;
  std::int64_t step = 1;
  std::function<train::Task(std::int64_t depth)> task = nullptr;  ///< the same task with a model of another depth
};

/// The limits that a table looks for beside its rows.
struct PlanOptions {
  std::string budget = "";                      ///< bytes, as memory::Budget reads them; empty: none
  std::optional<Depths> depths = std::nullopt;  ///< of which the largest that fits is found
};

/// The needs of a training step under one policy.
struct PlanRow {
  std::string policy = "";
  memory::StepForecast forecast = {};
  memory::RecipeCounts recipes = {};
  bool planned = false;                                    ///< for a budget
  std::optional<LargestFit> largest_batch = std::nullopt;  ///< that fits the budget
  std::optional<LargestFit> largest_depth = std::nullopt;  ///< none where the rules fit no net that is shallow enough
  std::string note = "";                                   ///< why the row is not what was asked for
};

/// A row for each policy that applies, for Options::memory if that is none of them, and, for a budget, for the
/// planner's choice within it. With a budget, too, the largest batch and depth that stay within it (training and
/// evaluation); deeper nets than about a thousand layers, or twice the given depth, are not looked at. `each` is called
/// with every row as soon as it is known. Throws ValueError for options that make no sense.
std::vector<PlanRow> plan_rows(const train::Task& task, const train::Options& options, const PlanOptions& plan = {},
                               const std::function<void(const PlanRow&)>& each = nullptr);

/// The rows as a table, each printed when it is known, and which policy each block has under Options::memory.
void print_plan(std::ostream& out, const train::Task& task, const train::Options& options,
                const PlanOptions& plan = {});

}  // namespace palimpsest::reports
