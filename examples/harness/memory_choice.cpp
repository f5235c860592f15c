#include "examples/harness/memory_choice.hpp"

#include <unistd.h>

#include "core/cuda_runtime.hpp"

namespace palimpsest::harness {
namespace {

constexpr std::string_view budget_prefix = "budget=";

}  // namespace

void MemoryChoice::apply(nn::Module& model) const {
  if (planned != nullptr) {
    model.set_memory(planned);
  } else {
    model.set_memory(rules);
  }
}

bool is_budget(const std::string& memory) { return memory.starts_with(budget_prefix); }

std::size_t device_bytes(Device device) {
  if (device == Device::Cuda) return cuda_device_memory().total;
  return static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

memory::Rates rates_for(const Options& options, Device device) {
  return options.rates.empty() ? memory::Rates::standard(device) : memory::Rates::load(options.rates, device);
}

MemoryChoice choose_memory(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                           Device device) {
  if (!is_budget(options.memory)) return {memory::parse_rules(options.memory), nullptr, 0};
  const std::size_t budget = memory::parse_bytes(options.memory.substr(budget_prefix.size()), device_bytes(device));
  MetaTraining training(make_model, options, defaults, device);
  const memory::Planner planner(training.rehearsal(), rates_for(options, device));
  return {{}, planner.within(budget).policy, budget};
}

}  // namespace palimpsest::harness
