#include <palimpsest/memory/planner/planner.hpp>

#include <algorithm>
#include <limits>
#include <map>

#include <palimpsest/core/error.hpp>
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
    const StepTrace::Allocation& allocation = step.allocation(number);
    std::string name(to_string(allocation.tag));
    if (allocation.value >= 0) {
      const StepTrace::Value& value = step.value(allocation.value);
      const StepTrace::Op* const op = value.op >= 0 ? &step.op(value.op) : nullptr;
      name += concat_text(" of ", op != nullptr && !op->block.empty() ? op->block + " " : "",
                          op != nullptr ? op->name : "a leaf", " ", value.shape);
    } else if (allocation.run >= 0) {
      name += concat_text(" of ", step.run(allocation.run).name);
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

/// True if all that comes back has the very bytes that forward made.
bool is_exact(const StepTrace& step) {
  return std::all_of(step.values.begin(), step.values.end(), [](const StepTrace::Value& value) { return value.exact; });
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
  if (rehearsal.step == nullptr) throw ValueError("a Rehearsal without a step");
  if (!is_meta(rehearsal.device)) {
    throw ValueError(concat_text("a Rehearsal on ", rehearsal.device, ", expected a meta device"));
  }
  StepRecorder log(rehearsal.device);
  rehearsal.step(policy);
  return log.take();
}

Planner::Planner(const Rehearsal& rehearsal, const Rates& rates, const std::optional<OffloadOptions>& offloading)
    : may_offload_(offloading.has_value()) {
  rates.check();
  std::vector<Candidate> found;
  const auto try_out = [&](const PolicyPtr& policy, bool planned) {
    ++rehearsals_;
    found.push_back({policy, forecast(rehearsal, policy, rates), planned});
    return found.back().forecast;
  };
  const auto watch = [&](const PolicyPtr& policy) {
    ++rehearsals_;
    return rehearse(rehearsal, policy);
  };
  const StepTrace step = watch(store_all_of_model());
  if (step.ops.empty()) {
    throw ValueError(concat_text("there is nothing to plan: the step records no op on ", rehearsal.device));
  }
  const auto options = std::make_shared<const OffloadOptions>(offloading.value_or(OffloadOptions{}));
  const auto fallback = std::make_shared<PlanFallback>();
  const auto policy_of = [&](const Plan& plan) { return plan.policy(std::string(planned_name), options, fallback); };
  Search search(
      step, rates, [&](const Plan& plan) { return try_out(policy_of(plan), true); },
      [&](const Plan& plan) { return watch(policy_of(plan)); });
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (const PolicyPtr& policy : combinations(*options)) {
    if (offloads(*policy) && !may_offload_) continue;
    std::size_t peak = 0;
    try {
      peak = try_out(policy, false).peak;
    } catch (const IdlePolicyError&) {
      continue;
    }
    const StepTrace trace = watch(policy);
    if (peak < least && is_exact(trace)) {
      least = peak;
      fallback->policy = policy;
    }
    search.begin_with(trace);
  }
  search.run(offloading);
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

}  // namespace palimpsest::memory
