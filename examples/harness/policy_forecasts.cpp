#include "examples/harness/policy_forecasts.hpp"

#include <algorithm>
#include <optional>

#include <palimpsest/memory/policies.hpp>
#include "examples/harness/command_line.hpp"

namespace palimpsest::harness {
namespace {

using memory::StepTrace;

double predicted_seconds(const StepTrace& record, const memory::Rates& rates) {
  double seconds = 0;
  for (const StepTrace::Run& run : record.runs) seconds += rates.seconds(run.kind, run.work);
  return seconds;
}

std::optional<StepTrace> step_under(const MemoryChoice& memory, const MakeModel& make_model, const Options& options,
                                    const TrainingDefaults& defaults, Device device) {
  try {
    return record_dry_run(make_model, memory, options, defaults, device);
  } catch (const UsageError&) {
    return std::nullopt;
  }
}

std::vector<std::string> policies_to_ask(const Options& options) {
  std::vector<std::string> policies;
  for (const std::string_view name : memory::names()) policies.emplace_back(name);
  if (std::find(policies.begin(), policies.end(), options.memory) == policies.end()) policies.push_back(options.memory);
  return policies;
}

}  // namespace

std::vector<PolicyForecast> policy_forecasts(const MakeModel& make_model, const MemoryChoice& memory,
                                             const Options& options, const TrainingDefaults& defaults, Device device) {
  const memory::Rates rates = rates_for(options, device);
  double reference = 0;  // store-all applies everywhere and comes first
  std::vector<PolicyForecast> forecasts;
  for (const std::string& policy : policies_to_ask(options)) {
    const MemoryChoice choice = policy == options.memory ? memory : MemoryChoice{.rules = memory::parse_rules(policy)};
    const std::optional<StepTrace> record = step_under(choice, make_model, options, defaults, device);
    if (!record) continue;
    const StepTrace::Peak peak = record->peak();
    const double seconds = predicted_seconds(*record, rates);
    if (policy == "store-all") reference = seconds;
    forecasts.push_back({.policy = policy,
                         .peak = peak.bytes,
                         .by_tag = peak.by_tag,
                         .operations = record->work().operations,
                         .time_factor = seconds / reference});
  }
  return forecasts;
}

std::vector<Saving> cheapest_savings(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                                     const TrainingDefaults& defaults, Device device) {
  MetaTraining training(make_model, options, defaults, device);
  const memory::Rehearsal rehearsal = training.rehearsal();
  const memory::Rates rates = rates_for(options, device);
  const memory::Planner planner =
      memory.planner ? *memory.planner : memory::Planner(rehearsal, rates, may_offload(options, device));
  memory.apply(training.model());
  const memory::StepForecast now = memory::forecast(rehearsal, nullptr, rates);
  std::vector<Saving> savings;
  for (const double fraction : {0.1, 0.2, 0.5}) {
    const auto limit = static_cast<std::size_t>(static_cast<double>(now.peak) * (1 - fraction));
    if (planner.candidates().front().forecast.peak > limit) break;
    const memory::Candidate& chosen = planner.within(limit);
    const std::string name(chosen.policy->name());
    const std::size_t mebibytes = (chosen.forecast.peak >> 20) + 1;
    savings.push_back({.fraction = fraction,
                       .peak = chosen.forecast.peak,
                       .time_factor = chosen.forecast.seconds / now.seconds,
                       .change = name == memory::planned_name ? concat_text("--memory budget=", mebibytes, "MiB")
                                                              : "--memory " + name});
  }
  return savings;
}

}  // namespace palimpsest::harness
