#include <palimpsest/reports/policy_forecasts.hpp>

#include <algorithm>
#include <optional>

#include <palimpsest/core/error.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/train/rehearsal.hpp>

namespace palimpsest::reports {
namespace {

using memory::StepTrace;

double predicted_seconds(const StepTrace& record, const memory::Rates& rates) {
  double seconds = 0;
  for (const StepTrace::Run& run : record.runs) seconds += rates.seconds(run.kind, run.work);
  return seconds;
}

/// Nothing for a policy without anything to act on.
std::optional<StepTrace> step_under(const train::Task& task, const train::Options& options,
                                    const train::MemoryChoice& memory) {
  try {
    return train::rehearse_step(task, options, memory);
  } catch (const IdlePolicyError&) {
    return std::nullopt;
  }
}

std::vector<std::string> policies_to_ask(const std::string& own) {
  std::vector<std::string> policies;
  for (const std::string_view name : memory::names()) policies.emplace_back(name);
  if (std::find(policies.begin(), policies.end(), own) == policies.end()) policies.push_back(own);
  return policies;
}

Saving saving_of(double fraction, const memory::Candidate& chosen, const memory::StepForecast& now,
                 const train::OptionNames& names) {
  const std::size_t mebibytes = (chosen.forecast.peak >> 20) + 1;
  const std::string text =
      chosen.planned ? concat_text("budget=", mebibytes, "MiB") : std::string(chosen.policy->name());
  return {.fraction = fraction,
          .peak = chosen.forecast.peak,
          .time_factor = chosen.forecast.seconds / now.seconds,
          .change = names.memory + text};
}

}  // namespace

std::vector<PolicyForecast> policy_forecasts(const train::Task& task, const train::Options& options,
                                             const train::MemoryChoice& memory) {
  const memory::Rates rates = train::rates_for(options);
  double reference = 0;  // of the first, store-all, which applies everywhere
  std::vector<PolicyForecast> forecasts;
  for (const std::string& policy : policies_to_ask(options.memory)) {
    const bool own = policy == options.memory;
    const std::optional<StepTrace> record =
        step_under(task, options, own ? memory : train::MemoryChoice{.rules = memory::parse(policy).rules()});
    if (!record) continue;
    const StepTrace::Peak peak = record->peak();
    const double seconds = predicted_seconds(*record, rates);
    if (forecasts.empty()) reference = seconds;
    forecasts.push_back({.policy = policy,
                         .peak = peak.bytes,
                         .by_tag = peak.by_tag,
                         .operations = record->work().operations,
                         .time_factor = seconds / reference});
  }
  return forecasts;
}

std::vector<Saving> cheapest_savings(const train::Task& task, const train::Options& options,
                                     const train::MemoryChoice& memory) {
  train::Rehearsal training(task, options);
  const memory::Rehearsal rehearsal = training.step_under();
  const memory::Rates rates = train::rates_for(options);
  const memory::Planner planner =
      memory.planner ? *memory.planner : memory::Planner(rehearsal, rates, train::plan_offloading(options));
  memory.apply(training.model());
  const memory::StepForecast now = memory::forecast(rehearsal, nullptr, rates);
  std::vector<Saving> savings;
  for (const double fraction : {0.1, 0.2, 0.5}) {
    const auto limit = static_cast<std::size_t>(static_cast<double>(now.peak) * (1 - fraction));
    if (planner.candidates().front().forecast.peak > limit) break;
    savings.push_back(saving_of(fraction, planner.within(limit), now, options.names));
  }
  return savings;
}

}  // namespace palimpsest::reports
