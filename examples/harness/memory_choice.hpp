#pragma once

#include <optional>
#include <string>
#include <vector>

#include <palimpsest/memory/planner/recipe_counts.hpp>
#include <palimpsest/memory/rules.hpp>
#include "examples/harness/meta_training.hpp"

namespace palimpsest::harness {

/// What --memory has come to: rules for the blocks, or a plan that the planner has made for a budget.
struct MemoryChoice {
  std::vector<memory::Rule> rules;
  PolicyPtr planned = nullptr;  ///< null: the rules
  std::size_t budget = 0;       ///< bytes; 0: none
  /// Of a budget: all that was planned for it, so that who wants to know more need not plan again.
  std::optional<memory::Planner> planner = std::nullopt;
  memory::RecipeCounts recipes{};  ///< of the plan

  /// Throws ValueError for a pattern that names no block.
  void apply(nn::Module& model) const;
};

/// Whether --memory asks for a budget ("budget=2GiB").
bool is_budget(const std::string& memory);

/// What a plan does with a step's values: "recipes: 412 kept, ...", and whether that costs exactness.
std::string describe(const memory::RecipeCounts& recipes);

/// Bytes of the device's memory: of the card or of the machine.
std::size_t device_bytes(Device device);

/// The rates that a forecast for this device uses: those of --rates, else the library's. Throws DataError.
memory::Rates rates_for(const Options& options, Device device);

/// Whether a plan for a budget may move values off the device: to the host's memory on CUDA, to --offload-dir on the
/// CPU. Without that flag a budget causes no traffic on a disk that nobody has asked for; and the system's folder for
/// temporary files, where --memory offload goes then, is often memory itself, which a budget is to save.
bool may_offload(const Options& options, Device device);

/// Reads --memory. For a budget the training is rehearsed on a meta device until the planner knows what fits. Throws
/// ValueError for what --memory is to blame for: a budget that is too small states the least feasible bytes, and, where
/// the plan might not offload for want of a folder, how little --offload-dir would make of them.
MemoryChoice choose_memory(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                           Device device);

}  // namespace palimpsest::harness
