#include <palimpsest/memory/planner/planner.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include <palimpsest/memory/planner/search.hpp>
#include <palimpsest/memory/policies.hpp>

namespace palimpsest::memory {
namespace {

/// Adds up what the runs of a step take.
class Meter : public Observer {
 public:
  explicit Meter(const Rates& rates) : rates_(rates) {}

  void run_begins(const OpRun& run) override { kinds_.push_back(run.kind); }

  void run_ends(const Work& work) noexcept override {
    const RunKind kind = kinds_.back();
    kinds_.pop_back();
    seconds_ += rates_.seconds(kind, work);
    if (kind != RunKind::Fetch) work_ += work;
  }

  const Work& work() const { return work_; }
  double seconds() const { return seconds_; }

 private:
  const Rates& rates_;
  Work work_;
  double seconds_ = 0;
  std::vector<RunKind> kinds_;  // of the runs that are going on
  ObserverScope scope_{this};
};

/// "dense1 concat (64, 304, 16, 16) 19.0 MiB, ...": the largest of what is live at the peak.
std::string owners_of_peak(const StepTrace& step) {
  std::map<std::string, std::size_t> bytes;
  const StepTrace::Peak peak = step.peak();
  for (const int number : step.live_after(peak.event)) {
    const StepTrace::Allocation& allocation = step.allocations[static_cast<std::size_t>(number)];
    std::string name(to_string(allocation.tag));
    if (allocation.value >= 0) {
      const StepTrace::Value& value = step.values[static_cast<std::size_t>(allocation.value)];
      const StepTrace::Op* const op = value.op >= 0 ? &step.ops[static_cast<std::size_t>(value.op)] : nullptr;
      name += concat_text(" of ", op != nullptr && !op->block.empty() ? op->block + " " : "",
                          op != nullptr ? op->name : "a leaf", " ", value.shape);
    } else if (allocation.run >= 0) {
      name += concat_text(" of ", step.runs[static_cast<std::size_t>(allocation.run)].name);
    }
    bytes[name] += allocation.bytes;
  }
  for (const std::size_t older : step.older_after(peak.event)) bytes["what is there before the step"] += older;
  std::vector<std::pair<std::size_t, std::string>> largest;
  for (const auto& [name, held] : bytes) largest.emplace_back(held, name);
  std::sort(largest.rbegin(), largest.rend());
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(largest.size(), 5); ++i) {
    text += concat_text(i > 0 ? ", " : "", largest[i].second, " ", format_mebibytes(largest[i].first));
  }
  return text;
}

/// Only those that no other beats in both memory and time, from the least memory on.
std::vector<Candidate> frontier(std::vector<Candidate> all) {
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.forecast.peak != b.forecast.peak ? a.forecast.peak < b.forecast.peak
                                              : a.forecast.seconds < b.forecast.seconds;
  });
  std::vector<Candidate> best;
  for (Candidate& candidate : all) {
    if (best.empty() || candidate.forecast.seconds < best.back().forecast.seconds) best.push_back(std::move(candidate));
  }
  return best;
}

}  // namespace

StepForecast forecast(const Rehearsal& rehearsal, const PolicyPtr& policy, const Rates& rates) {
  Allocator& memory = allocator(rehearsal.device);
  memory.reset_peak();
  const Meter meter(rates);
  rehearsal.step(policy);
  const MemoryStats stats = memory.stats();
  return {stats.peak, stats.peak_by_tag, stats.peak_reserved, meter.work(), meter.seconds()};
}

StepTrace rehearse(const Rehearsal& rehearsal, const PolicyPtr& policy) {
  StepRecorder log(rehearsal.device);
  rehearsal.step(policy);
  return log.take();
}

Planner::Planner(const Rehearsal& rehearsal, const Rates& rates, bool may_offload) : may_offload_(may_offload) {
  std::vector<Candidate> found;
  const auto try_out = [&](const PolicyPtr& policy) {
    ++rehearsals_;
    found.push_back({policy, forecast(rehearsal, policy, rates)});
    return found.back().forecast;
  };
  const auto watch = [&](const PolicyPtr& policy) {
    ++rehearsals_;
    return rehearse(rehearsal, policy);
  };
  const StepTrace step = watch(store_all());
  Search search(
      step, rates, [&](const Plan& plan) { return try_out(plan.policy(std::string(planned_name))); },
      [&](const Plan& plan) { return watch(plan.policy(std::string(planned_name))); });
  for (const PolicyPtr& policy : combinations()) {
    if (policy == offload() && !may_offload) continue;
    try {
      try_out(policy);
    } catch (const ValueError&) {
      continue;  // it has nothing to act on in this model
    }
    search.begin_with(watch(policy));
  }
  search.run(may_offload);
  candidates_ = frontier(std::move(found));
  pinned_by_ = owners_of_peak(rehearse(rehearsal, candidates_.front().policy));
}

const Candidate& Planner::within(std::size_t budget) const {
  const auto beyond = std::find_if(candidates_.begin(), candidates_.end(),
                                   [&](const Candidate& candidate) { return candidate.forecast.peak > budget; });
  if (beyond == candidates_.begin()) {
    const std::size_t least = candidates_.front().forecast.peak;
    throw ValueError(concat_text("memory budget of ", budget, " bytes (", format_mebibytes(budget),
                                 ") is too small: the least feasible is ", least, " bytes (", format_mebibytes(least),
                                 "), pinned by ", pinned_by_,
                                 may_offload_ ? "" : "; values may not be offloaded in this plan"));
  }
  return *std::prev(beyond);
}

std::size_t parse_bytes(std::string_view text, std::size_t device_bytes) {
  const auto fail = [&]() {
    throw ValueError(concat_text("'", text, "' is no number of bytes, expected one like 2GiB, 1500MB, 750MiB or 40%"));
  };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number <= 0) fail();
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  static const std::map<std::string_view, double> units = {{"", 1},         {"B", 1},        {"kB", 1e3},
                                                           {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
                                                           {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}};
  if (unit == "%") {
    if (number > 100) fail();
    if (device_bytes == 0)
      throw ValueError("the size of the device's memory is not known, expected bytes instead of %");
    return static_cast<std::size_t>(number / 100 * static_cast<double>(device_bytes));
  }
  const auto found = units.find(unit);
  if (found == units.end() || number * found->second < 1 || number * found->second > 0x1p60) fail();
  return static_cast<std::size_t>(number * found->second);
}

}  // namespace palimpsest::memory
