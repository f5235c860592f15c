#include "examples/harness/memory_choice.hpp"

#include <unistd.h>

#include <palimpsest/core/device.hpp>

namespace palimpsest::harness {
namespace {

constexpr std::string_view budget_prefix = "budget=";

}  // namespace

void MemoryChoice::apply(nn::Module& model) const {
  if (planned != nullptr) {
    model.set_memory(planned);
  } else {
    model.set_memory(memory::assign(rules, model.block_names()));
  }
}

bool is_budget(const std::string& memory) { return memory.starts_with(budget_prefix); }

std::string describe(const memory::RecipeCounts& recipes) {
  std::string text = "recipes: " + memory::to_text(recipes);
  if (recipes.inexact > 0) {
    text += concat_text("; ", recipes.inexact, " values solved for, not exact without --grid");
  }
  return text;
}

std::size_t device_bytes(Device device) {
  if (device == Device::Cuda) return cuda_device_memory().total;
  return static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

memory::Rates rates_for(const Options& options, Device device) {
  return options.rates.empty() ? memory::Rates::standard(device) : memory::Rates::load(options.rates, device);
}

bool may_offload(const Options& options, Device device) {
  return device == Device::Cuda || !options.offload_dir.empty();
}

MemoryChoice choose_memory(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                           Device device) {
  if (!is_budget(options.memory)) return {memory::parse_rules(options.memory), nullptr, 0, std::nullopt};
  const std::size_t budget = memory::parse_bytes(options.memory.substr(budget_prefix.size()), device_bytes(device));
  MetaTraining training(make_model, options, defaults, device);
  const memory::Rehearsal rehearsal = training.rehearsal();
  const memory::Rates rates = rates_for(options, device);
  const bool offloads = may_offload(options, device);
  const memory::Planner planner(rehearsal, rates, offloads);
  try {
    const PolicyPtr& policy = planner.within(budget).policy;
    return {{}, policy, budget, planner, memory::count_recipes(memory::rehearse(rehearsal, policy))};
  } catch (const ValueError& error) {
    if (offloads) throw;
    const std::size_t least = memory::Planner(rehearsal, rates, true).candidates().front().forecast.peak;
    if (least >= planner.candidates().front().forecast.peak) {
      throw ValueError(concat_text(error.what(), ": with --offload-dir DIR they may, but that saves nothing here"));
    }
    throw ValueError(concat_text(error.what(), ": with --offload-dir DIR they may, and the least is ", least,
                                 " bytes (", format_mebibytes(least), ")"));
  }
}

}  // namespace palimpsest::harness
