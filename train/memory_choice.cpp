#include <palimpsest/train/memory_choice.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/train/rehearsal.hpp>

namespace palimpsest::train {
namespace {

/// Adds to the planner's message what a folder to offload to would bring.
[[noreturn]] void refuse_budget(const ValueError& error, const memory::Planner& planner, std::size_t with_offloading,
                                const OptionNames& names) {
  const std::string folder = concat_text(error.what(), ": with ", names.offload_dir, " DIR they may, ");
  if (with_offloading >= planner.candidates().front().forecast.peak) {
    throw ValueError(folder + "but that saves nothing here");
  }
  throw ValueError(
      concat_text(folder, "and the least is ", with_offloading, " bytes (", format_mebibytes(with_offloading), ")"));
}

MemoryChoice chosen(const memory::Planner& planner, const memory::Rehearsal& step, std::size_t budget) {
  const PolicyPtr& policy = planner.within(budget).policy;
  return {{}, policy, budget, planner, memory::count_recipes(memory::rehearse(step, policy))};
}

MemoryChoice plan_for(const Task& task, const Options& options, std::size_t budget) {
  Rehearsal rehearsal(task, options);
  const memory::Rehearsal step = rehearsal.step_under();
  const memory::Rates rates = rates_for(options);
  const memory::Planner planner(step, rates, plan_offloading(options));
  try {
    return chosen(planner, step, budget);
  } catch (const ValueError& error) {
    if (plan_offloading(options)) throw;
    const memory::Planner offloading(step, rates, offload_options(options));
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

std::string describe(const memory::RecipeCounts& recipes, const OptionNames& names) {
  std::string text = "recipes: " + memory::to_text(recipes);
  if (recipes.inexact > 0) {
    text += concat_text("; ", recipes.inexact, " values solved for, not exact without ", names.grid);
  }
  return text;
}

memory::Rates rates_for(const Options& options) {
  return options.rates.empty() ? memory::Rates::standard(options.device)
                               : memory::Rates::load(options.rates, options.device);
}

memory::OffloadOptions offload_options(const Options& options) { return {.directory = options.offload_dir}; }

std::optional<memory::OffloadOptions> plan_offloading(const Options& options) {
  if (options.device != Device::Cuda && options.offload_dir.empty()) return std::nullopt;
  return offload_options(options);
}

MemoryChoice choose_memory(const Task& task, const Options& options) {
  const memory::Request asked = memory::parse(options.memory, offload_options(options));
  if (const auto budget = asked.budget()) return plan_for(task, options, budget->bytes(options.device));
  return {.rules = asked.rules()};
}

MemoryChoice choose_memory(std::string_view text, const memory::Rehearsal& step, const memory::Rates& rates,
                           const std::optional<memory::OffloadOptions>& offloading) {
  const memory::Request asked = memory::parse(text, offloading.value_or(memory::OffloadOptions{}));
  const auto budget = asked.budget();
  if (!budget) return {.rules = asked.rules()};
  return chosen(memory::Planner(step, rates, offloading), step, budget->bytes(step.device));
}

}  // namespace palimpsest::train
