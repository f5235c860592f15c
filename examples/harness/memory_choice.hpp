#pragma once

#include <optional>
#include <string>
#include <vector>

#include "examples/harness/meta_training.hpp"
#include "memory/rules.hpp"

namespace palimpsest::harness {

/// What --memory has come to: rules for the blocks, or a plan that the planner has made for a budget.
struct MemoryChoice {
  std::vector<memory::Rule> rules;
  PolicyPtr planned;       ///< null: the rules
  std::size_t budget = 0;  ///< bytes; 0: none

  /// Throws ValueError for a pattern that names no block.
  void apply(nn::Module& model) const;
};

/// Whether --memory asks for a budget ("budget=2GiB").
bool is_budget(const std::string& memory);

/// Bytes of the device's memory: of the card or of the machine.
std::size_t device_bytes(Device device);

/// The rates that a forecast for this device uses: those of --rates, else the library's. Throws DataError.
memory::Rates rates_for(const Options& options, Device device);

/// Whether a plan for a budget may move values off the device: to the host's memory on CUDA, to --offload-dir on the
/// CPU.
bool may_offload(const Options& options, Device device);

/// Reads --memory. For a budget the training is rehearsed on Meta until the planner knows what fits. Throws ValueError
/// for what --memory is to blame for: a budget that is too small states the least feasible bytes.
MemoryChoice choose_memory(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                           Device device);

/// What to do about a run that has run out of memory, for the end of the error message: the policies whose forecast is
/// below `limit` bytes (0: not known; then below that of the run itself), and the least budget that can be kept to.
/// Empty if nothing would help.
std::string memory_advice(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                          Device device, std::size_t limit);

}  // namespace palimpsest::harness
