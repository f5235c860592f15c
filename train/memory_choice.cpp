#include <palimpsest/train/memory_choice.hpp>

#include <unistd.h>

#include <palimpsest/core/device.hpp>
#include <palimpsest/train/rehearsal.hpp>

namespace palimpsest::train {
namespace {

constexpr std::string_view budget_prefix = "budget=";

/// How to a budget that no plan keeps to would become feasible, behind the planner's own message.
[[noreturn]] void refuse_budget(const ValueError& error, const memory::Planner& planner, std::size_t with_offloading,
                                const OptionNames& names) {
  const std::string folder = concat_text(error.what(), ": with ", names.offload_dir, " DIR they may, ");
  if (with_offloading >= planner.candidates().front().forecast.peak) {
    throw ValueError(folder + "but that saves nothing here");
  }
  throw ValueError(
      concat_text(folder, "and the least is ", with_offloading, " bytes (", format_mebibytes(with_offloading), ")"));
}

MemoryChoice plan_for(const Task& task, const Options& options, std::size_t budget) {
  Rehearsal rehearsal(task, options);
  const memory::Rehearsal step = rehearsal.step_under();
  const memory::Rates rates = rates_for(options);
  const memory::Planner planner(step, rates, may_offload(options));
  try {
    const PolicyPtr& policy = planner.within(budget).policy;
    return {{}, policy, budget, planner, memory::count_recipes(memory::rehearse(step, policy))};
  } catch (const ValueError& error) {
    if (may_offload(options)) throw;
    const memory::Planner offloading(step, rates, true);
    refuse_budget(error, planner, offloading.candidates().front().forecast.peak, options.names);
  }
}

}  // namespace

void MemoryChoice::apply(nn::Module& model) const {
  if (planned != nullptr) {
    model.set_memory(planned);
  } else {
    model.set_memory(memory::assign(rules, model.block_names()));
  }
}

bool is_budget(const std::string& memory) { return memory.starts_with(budget_prefix); }

std::string describe(const memory::RecipeCounts& recipes, const OptionNames& names) {
  std::string text = "recipes: " + memory::to_text(recipes);
  if (recipes.inexact > 0) {
    text += concat_text("; ", recipes.inexact, " values solved for, not exact without ", names.grid);
  }
  return text;
}

std::size_t device_bytes(Device device) {
  if (device == Device::Cuda) return cuda_device_memory().total;
  return static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

memory::Rates rates_for(const Options& options) {
  return options.rates.empty() ? memory::Rates::standard(options.device)
                               : memory::Rates::load(options.rates, options.device);
}

bool may_offload(const Options& options) { return options.device == Device::Cuda || !options.offload_dir.empty(); }

MemoryChoice choose_memory(const Task& task, const Options& options) {
  if (!is_budget(options.memory)) return {.rules = memory::parse_rules(options.memory)};
  const std::string bytes = options.memory.substr(budget_prefix.size());
  return plan_for(task, options, memory::parse_bytes(bytes, device_bytes(options.device)));
}

}  // namespace palimpsest::train
