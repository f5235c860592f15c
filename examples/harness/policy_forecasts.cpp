#include "examples/harness/policy_forecasts.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "examples/harness/command_line.hpp"
#include "memory/policies.hpp"

namespace palimpsest::harness {
namespace {

using memory::StepRecord;

/// Runs that cost alike: heavy ones by their operations, all others by their bytes; in forward (and when run again) or
/// in backward.
constexpr std::size_t classes = 4;

struct Load {
  std::size_t of_class;
  double amount;
};

Load load_of(const StepRecord& record, const StepRecord::Run& run) {
  const bool heavy = run.op >= 0 && record.ops[static_cast<std::size_t>(run.op)].cost == Cost::Heavy;
  const bool backward = run.kind == RunKind::Backward;
  return {(heavy ? 2U : 0U) + (backward ? 1U : 0U), heavy ? run.work.operations : run.work.bytes};
}

/// Microseconds that each run took, without those that ran within it.
std::vector<double> own_times(const StepRecord& record) {
  std::vector<double> times;
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < record.runs.size(); ++i) {
    const StepRecord::Run& run = record.runs[i];
    while (!open.empty() && record.runs[open.back()].end_us <= run.begin_us) open.pop_back();
    if (!open.empty()) times[open.back()] -= run.end_us - run.begin_us;
    times.push_back(run.end_us - run.begin_us);
    open.push_back(i);
  }
  return times;
}

/// Microseconds for a unit of each class's load; 0 where nothing of it ran.
using Pace = std::array<double, classes>;

Pace pace_of(const StepRecord& measured) {
  Pace time{};
  Pace load{};
  const std::vector<double> times = own_times(measured);
  for (std::size_t i = 0; i < times.size(); ++i) {
    const auto [of_class, amount] = load_of(measured, measured.runs[i]);
    time[of_class] += std::max(0.0, times[i]);
    load[of_class] += amount;
  }
  for (std::size_t c = 0; c < classes; ++c) time[c] = load[c] > 0 ? time[c] / load[c] : 0;
  return time;
}

double estimated_time(const StepRecord& record, const Pace& pace) {
  double time = 0;
  for (const StepRecord::Run& run : record.runs) {
    const auto [of_class, amount] = load_of(record, run);
    time += pace[of_class] * amount;
  }
  return time;
}

std::optional<StepRecord> step_under(const std::string& policy, const MakeModel& make_model, Options options,
                                     const TrainingDefaults& defaults, Device device) {
  options.memory = policy;
  try {
    return record_dry_run(make_model, options, defaults, device);
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

std::vector<PolicyForecast> policy_forecasts(const MakeModel& make_model, const Options& options,
                                             const TrainingDefaults& defaults, Device device,
                                             const StepRecord& measured) {
  const Pace pace = device == Device::Cpu ? pace_of(measured) : Pace{};
  double reference = 0;
  std::vector<PolicyForecast> forecasts;
  for (const std::string& policy : policies_to_ask(options)) {
    const std::optional<StepRecord> record = step_under(policy, make_model, options, defaults, device);
    if (!record) continue;
    const StepRecord::Peak peak = record->peak();
    const double time = estimated_time(*record, pace);
    if (policy == "store-all") reference = time;
    forecasts.push_back({.policy = policy,
                         .peak = peak.bytes,
                         .by_tag = peak.by_tag,
                         .operations = record->work().operations,
                         .time_factor = reference > 0 ? time / reference : 0});
  }
  return forecasts;
}

std::vector<Saving> cheapest_savings(const MakeModel& make_model, const Options& options,
                                     const TrainingDefaults& defaults, Device device) {
  // Before the rehearsals, whose memory would count in its own.
  const MemoryChoice memory = choose_memory(make_model, options, defaults, device);
  MetaTraining training(make_model, options, defaults, device);
  const memory::Rehearsal rehearsal = training.rehearsal();
  const memory::Rates rates = rates_for(options, device);
  const memory::Planner planner(rehearsal, rates, may_offload(options, device));
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
