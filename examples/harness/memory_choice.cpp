#include "examples/harness/memory_choice.hpp"

#include <unistd.h>

#include "core/cuda_runtime.hpp"
#include "memory/policies.hpp"

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
  if (!is_budget(options.memory)) return {memory::parse_rules(options.memory), nullptr, 0};
  const std::size_t budget = memory::parse_bytes(options.memory.substr(budget_prefix.size()), device_bytes(device));
  MetaTraining training(make_model, options, defaults, device);
  const memory::Planner planner(training.rehearsal(), rates_for(options, device), may_offload(options, device));
  return {{}, planner.within(budget).policy, budget};
}

std::string memory_advice(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                          Device device, std::size_t limit) {
  // Before the rehearsals, whose memory would count in its own.
  const MemoryChoice memory = limit == 0 ? choose_memory(make_model, options, defaults, device) : MemoryChoice{};
  MetaTraining training(make_model, options, defaults, device);
  const memory::Rehearsal rehearsal = training.rehearsal();
  const memory::Rates rates = rates_for(options, device);
  std::size_t below = limit;
  if (limit == 0) {
    memory.apply(training.model());
    below = memory::forecast(rehearsal, nullptr, rates).peak - 1;
  }
  std::string fitting;
  for (const std::string_view name : memory::names()) {
    try {
      const std::size_t peak = memory::forecast(rehearsal, memory::parse(name), rates).peak;
      if (peak <= below) {
        fitting += concat_text(fitting.empty() ? "" : ", ", "--memory ", name, " (", format_mebibytes(peak), ")");
      }
    } catch (const ValueError&) {
      continue;  // it has nothing to act on in this model
    }
  }
  const memory::Planner planner(rehearsal, rates, may_offload(options, device));
  const std::size_t least = planner.candidates().front().forecast.peak;
  if (least <= below) {
    const std::size_t mebibytes = (least >> 20) + 1;
    fitting += concat_text(fitting.empty() ? "" : ", ", "--memory budget=", mebibytes, "MiB or more");
  }
  if (!fitting.empty()) {
    return limit == 0 ? "; by the forecast these need less: " + fitting : "; by the forecast these fit: " + fitting;
  }
  return concat_text("; by the forecast no policy fits with batches of ", run_length(options).batch_size,
                     ": the least is ", format_mebibytes(least), "; try a smaller --batch-size");
}

}  // namespace palimpsest::harness
