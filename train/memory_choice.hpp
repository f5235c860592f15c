#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/memory/planner/recipe_counts.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/train/options.hpp>

namespace palimpsest::train {

/// The result of choose_memory(): rules for the blocks, or a plan that the planner has made for a budget.
struct MemoryChoice {
  std::vector<memory::Rule> rules = {};
  PolicyPtr planned = nullptr;  ///< null: the rules
  std::size_t budget = 0;       ///< bytes; 0: none
  /// All plans that were made for the budget, so that nothing is planned twice.
  std::optional<memory::Planner> planner = std::nullopt;
  memory::RecipeCounts recipes = {};  ///< of the plan

  /// Throws ValueError for a pattern that names no block.
  void apply(nn::Module& model) const;
};

/// The recipes that a plan gives to a step's values: "recipes: 412 kept, ...", and whether that costs exactness.
std::string describe(const memory::RecipeCounts& recipes, const OptionNames& names = {});

/// The rates that forecasts use: those of Options::rates, else the library's. Throws DataError.
memory::Rates rates_for(const Options& options);

/// The options with which values may leave the device: to the host's memory on CUDA, to Options::offload_dir on the
/// CPU.
memory::OffloadOptions offload_options(const Options& options);

/// The same for a plan, nullopt if it must keep values on the device: on the CPU without a folder. A budget then causes
/// no traffic on a disk that nobody has asked for; and the system's folder for temporary files, the default of the
/// policy offload, is often memory itself, which a budget is to save.
std::optional<memory::OffloadOptions> plan_offloading(const Options& options);

/// Reads Options::memory. For a budget the task is rehearsed on meta until the planner knows what fits. Throws
/// ValueError for a text that makes no sense and for a budget that is too small, stating the least feasible bytes and,
/// where the plan might not offload for want of a folder, how little a folder would make of them.
MemoryChoice choose_memory(const Task& task, const Options& options);

/// The same for a step of one's own, which is rehearsed if the text asks for a budget; a share is one of the device
/// that step.device stands for. `offloading`: a plan may move values elsewhere, and the policy offload does, with these
/// options; nullopt: a plan keeps values on the device.
MemoryChoice choose_memory(std::string_view text, const memory::Rehearsal& step, const memory::Rates& rates,
                           const std::optional<memory::OffloadOptions>& offloading = std::nullopt);

}  // namespace palimpsest::train
