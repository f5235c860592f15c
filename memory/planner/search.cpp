#include <palimpsest/memory/planner/search.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include <palimpsest/memory/policies.hpp>

namespace palimpsest::memory {
namespace {

constexpr std::size_t segment_sizes = 12;
constexpr std::size_t prices = 5;
constexpr std::size_t inversions = 6;
// To be filled with what is kept again: evenly spread, and such as plans without it have peaks.
constexpr std::size_t even_budgets = 14;
constexpr std::size_t peak_budgets = 12;
// Values that may turn out not to fit any more until a budget counts as filled; fewer in long steps.
constexpr std::size_t most_misses = 12;
constexpr std::size_t least_misses = 2;
constexpr std::size_t ops_to_miss = 10000;
// Chains: up to how many links, and how many alternatives a list may have where it may not have all.
constexpr int most_links = 128;
constexpr int short_chain = 20;
constexpr std::size_t most_alternatives = 32;
constexpr std::size_t any_number = std::numeric_limits<std::size_t>::max();
// As many schedules are rehearsed as make up so many ops.
constexpr std::size_t least_schedules = 24;
constexpr std::size_t ops_to_rehearse = 4096;
constexpr double any_price = std::numeric_limits<double>::infinity();

}  // namespace

Search::Search(const StepTrace& step, const Rates& rates, TryOut try_out, Watch watch)
    : step_(step),
      rates_(rates),
      try_out_(std::move(try_out)),
      watch_(std::move(watch)),
      item_of_value_(step.values.size(), -1) {
  collect_items();
}

void Search::collect_items() {
  std::vector<double> seconds(step_.ops.size());
  for (const StepTrace::Run& run : step_.runs) {
    if (run.kind == RunKind::Forward && run.op >= 0)
      seconds[static_cast<std::size_t>(run.op)] = rates_.seconds(run.work);
  }
  for (std::size_t o = 0; o < step_.ops.size(); ++o) {
    for (const int output : step_.ops[o].outputs) {
      item_of_value_[static_cast<std::size_t>(output)] = static_cast<int>(items_.size());
      add_item(step_.ops[o], step_.values[static_cast<std::size_t>(output)], static_cast<int>(o), seconds[o]);
    }
  }
  crossing_bytes_.resize(step_.ops.size() + 1);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    if (item.coupling >= 0) couplings_.push_back(static_cast<int>(i));
    for (int position = item.op + 1; position <= item.last_use; ++position)
      crossing_bytes_[static_cast<std::size_t>(position)] += item.bytes;
  }
}

void Search::add_item(const StepTrace::Op& op, const StepTrace::Value& value, int number, double seconds) {
  Item item{.op = number,
            .output = value.output,
            .bytes = value.bytes,
            .needed = !value.read_by.empty(),
            .optional = value.optional,
            .return_cost = seconds,
            .coupling = value.solvable_from};
  std::size_t input_bytes = 0;
  std::size_t streams = 0;
  for (const int input : op.inputs) {
    if (item_of(input) < 0) continue;
    Item& source = items_[static_cast<std::size_t>(item_of(input))];
    source.last_use = number;
    input_bytes += source.bytes;
    ++streams;
    if (!source.needed) item.return_cost += source.return_cost;
  }
  const std::optional<int> arena = shared_arena(op.cost, value.bytes, input_bytes, streams);
  if (arena && value.solvable_from < 0) item.again = {Way::Arena, *arena};
  items_.push_back(item);
}

/// What an op can do without is never made: making it costs more than working it out as it is read.
Search::Draft Search::everything(Way needed) const {
  Draft draft{{}, std::vector<bool>(items_.size())};
  for (const Item& item : items_) draft.choices.push_back({item.optional ? Way::Replay : needed});
  return draft;
}

std::vector<int> Search::cuts(std::size_t segment_bytes) const {
  std::vector<std::size_t> made(step_.ops.size() + 1);  // before each position
  for (const Item& item : items_) made[static_cast<std::size_t>(item.op) + 1] += item.optional ? 0 : item.bytes;
  for (std::size_t i = 1; i < made.size(); ++i) made[i] += made[i - 1];
  std::vector<int> found;
  std::size_t begin = 0;
  for (std::size_t position = 1; position < step_.ops.size(); ++position) {
    if (made[position] - made[begin] <= segment_bytes) continue;
    std::size_t best = position;
    for (std::size_t other = position; other > begin; --other) {
      if (crossing_bytes_[other] < crossing_bytes_[best]) best = other;
    }
    found.push_back(static_cast<int>(best));
    begin = best;
  }
  return found;
}

void Search::keep_at_cuts(Draft& draft, std::size_t segment_bytes) const {
  if (segment_bytes == 0) return;
  for (const int cut : cuts(segment_bytes)) {
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (items_[i].op >= cut || items_[i].last_use < cut || draft.choices[i].way == Way::Invert) continue;
      draft.choices[i] = {};
      draft.fixed[i] = true;
    }
  }
}

Search::Draft Search::segments(std::size_t segment_bytes, double dearest, bool arenas) const {
  Draft draft = everything(Way::Keep);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    if (item.optional || item.return_cost > dearest * static_cast<double>(item.bytes)) continue;
    draft.choices[i] = arenas ? item.again : Choice{Way::Replay};
  }
  keep_at_cuts(draft, segment_bytes);
  return draft;
}

/// The first couplings are inverted and their branches replayed; the rest is kept, or replayed in segments.
Search::Draft Search::inverted(std::size_t couplings, std::size_t segment_bytes) const {
  const int last = items_[static_cast<std::size_t>(couplings_[couplings - 1])].coupling;
  Draft draft = everything(segment_bytes > 0 ? Way::Replay : Way::Keep);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    if (item.op < last && item.coupling < 0) draft.choices[i] = {Way::Replay};
    if (item.coupling >= 0 && item.coupling <= last) draft.choices[i] = {Way::Invert};
  }
  // What enters the first coupling's branch, and everything before, is not inside any.
  for (std::size_t i = 0; i < items_.size() && static_cast<int>(i) < couplings_.front(); ++i) {
    if (!items_[i].optional) draft.choices[i] = {};
  }
  keep_at_cuts(draft, segment_bytes);
  return draft;
}

/// A value that no gradient reads is replayed where a replay reads it. Where none does, a recipe would only hold on to
/// what it reads.
Plan Search::complete(Draft draft) const {
  std::vector<bool> read(items_.size());
  const auto mark = [&](const std::vector<int>& values) {
    for (const int value : values) {
      if (item_of(value) >= 0) read[static_cast<std::size_t>(item_of(value))] = true;
    }
  };
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (draft.choices[i].way == Way::Invert) mark(step_.ops[static_cast<std::size_t>(items_[i].coupling)].inputs);
  }
  Plan plan(step_);
  for (std::size_t i = items_.size(); i-- > 0;) {
    const Item& item = items_[i];
    Choice choice = draft.choices[i];
    if (!item.optional && !item.needed && choice.way != Way::Invert) {
      choice = read[i] && !draft.fixed[i] ? Choice{.way = Way::Replay, .nesting = choice.nesting} : Choice{};
    }
    plan.set(item.op, item.output, choice);
    if (!item.optional && (choice.way == Way::Replay || choice.way == Way::Arena))
      mark(step_.ops[static_cast<std::size_t>(item.op)].inputs);
  }
  return plan;
}

StepForecast Search::attempt(const Draft& draft) {
  Plan plan = complete(draft);
  for (const Tried& tried : tried_) {
    if (tried.plan == plan) return tried.forecast;
  }
  const StepForecast taken = try_out_(plan);
  tried_.push_back({draft, std::move(plan), taken});
  return taken;
}

Search::Draft Search::linked(const Chain& chain, const std::function<int(int link)>& nesting) const {
  Draft draft = everything(Way::Replay);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    const int link = chain.link_that_ends_in(item.op, item.output);
    const int level = link >= 0 ? nesting(link) : Plan::most_nesting;
    if (level == ChainSchedule::kept) {
      draft.choices[i] = {};
      draft.fixed[i] = true;
    } else if (!item.optional) {
      draft.choices[i].nesting = level;
    }
  }
  return draft;
}

void Search::attempt_chain() {
  std::optional<Chain> chain = Chain::find(step_, most_links);
  if (!chain) return;
  const int last = chain->count() - 1;
  const auto links = chain->measure(rates_, [&](const Chain::Keeps& keeps) {
    Plan plan =
        complete(linked(*chain, [&](int link) { return link == last || keeps(link) ? ChainSchedule::kept : 0; }));
    StepTrace step = watch_(plan);
    return Chain::Rehearsed{std::move(plan), std::move(step)};
  });
  if (!links) return;
  const std::vector<ChainSchedule> schedules =
      chain_schedules(*links, chain->floor(), last < short_chain ? any_number : most_alternatives);
  const std::size_t most = std::max(least_schedules, ops_to_rehearse / step_.ops.size());
  const std::size_t count = std::min(schedules.size(), most);
  for (std::size_t i = 0; i < count; ++i) {
    const ChainSchedule& schedule = schedules[count > 1 ? i * (schedules.size() - 1) / (count - 1) : 0];
    attempt(linked(*chain, [&](int link) {
      return link == last ? ChainSchedule::kept : schedule.nesting[static_cast<std::size_t>(link)];
    }));
  }
}

void Search::relax(Draft draft, std::size_t budget) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (draft.choices[i].way != Way::Keep && !items_[i].optional && items_[i].needed) order.push_back(i);
  }
  const auto worth = [&](std::size_t i) {
    const double bytes = static_cast<double>(items_[i].bytes);
    const bool moved = draft.choices[i].way == Way::Fetch;
    return moved ? 2 / rates_.offload_bytes_per_second : items_[i].return_cost / bytes;
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return worth(a) > worth(b); });
  std::size_t misses = std::clamp(ops_to_miss / step_.ops.size(), least_misses, most_misses);
  for (std::size_t at = 0, count = std::max<std::size_t>(1, order.size() / 2); at < order.size();) {
    Draft richer = draft;
    const std::size_t end = std::min(order.size(), at + count);
    for (std::size_t i = at; i < end; ++i) richer.choices[order[i]] = {};
    const bool fits = attempt(richer).peak <= budget;
    if (fits) {
      draft = std::move(richer);
      at = end;
    } else if (count == 1) {
      if (--misses == 0) return;
      ++at;  // a smaller one may still fit
    }
    count = std::max<std::size_t>(1, count / 2);
  }
}

Search::Draft Search::offloaded(Draft draft, const OffloadOptions& options) const {
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    if (draft.choices[i].way == Way::Keep && item.needed && item.bytes >= options.at_least)
      draft.choices[i] = {Way::Fetch};
  }
  return draft;
}

void Search::begin_with(const StepTrace& step) {
  Draft draft = everything(Way::Keep);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const auto output = static_cast<std::size_t>(items_[i].output);
    const int number = step.ops[static_cast<std::size_t>(items_[i].op)].outputs[output];
    const StepTrace::Value& value = step.values[static_cast<std::size_t>(number)];
    draft.choices[i] = {value.way, value.arena, value.nesting};
    draft.fixed[i] = value.way == Way::Keep;
  }
  attempt(draft);
}

void Search::run(const std::optional<OffloadOptions>& offloading) {
  std::size_t all = 0;
  std::vector<double> sorted;  // seconds a byte
  for (const Item& item : items_) {
    if (item.optional || !item.needed) continue;
    all += item.bytes;
    sorted.push_back(item.return_cost / static_cast<double>(item.bytes));
  }
  std::sort(sorted.begin(), sorted.end());
  attempt(everything(Way::Keep));
  for (std::size_t price = 1; price <= prices && !sorted.empty(); ++price) {
    const double limit = price == prices ? any_price : sorted[sorted.size() * price / prices];
    for (std::size_t size = 0; size < segment_sizes; ++size) {
      const auto bytes =
          static_cast<std::size_t>(static_cast<double>(all) / std::pow(1.6, static_cast<double>(size) + 1));
      attempt(segments(size == 0 ? 0 : bytes, limit, false));
    }
    attempt(segments(0, limit, true));
    if (offloading) attempt(offloaded(segments(0, limit, false), *offloading));
  }
  if (offloading) attempt(offloaded(everything(Way::Keep), *offloading));
  for (std::size_t part = 1; part <= inversions && !couplings_.empty(); ++part) {
    const std::size_t count = std::max<std::size_t>(1, couplings_.size() * part / inversions);
    attempt(inverted(count, 0));
    attempt(inverted(count, all / 16));
  }
  attempt_chain();
  for (const std::size_t budget : budgets()) {
    const Tried* best = nullptr;
    for (const Tried& tried : tried_) {
      if (tried.forecast.peak > budget) continue;
      if (best == nullptr || tried.forecast.seconds < best->forecast.seconds) best = &tried;
    }
    relax(Draft(best->draft), budget);
  }
}

std::vector<std::size_t> Search::budgets() const {
  std::vector<const Tried*> sorted;
  for (const Tried& tried : tried_) sorted.push_back(&tried);
  std::sort(sorted.begin(), sorted.end(), [](const Tried* a, const Tried* b) {
    return std::pair(a->forecast.peak, a->forecast.seconds) < std::pair(b->forecast.peak, b->forecast.seconds);
  });
  std::vector<std::size_t> peaks;
  double seconds = std::numeric_limits<double>::infinity();
  for (const Tried* tried : sorted) {
    if (tried->forecast.seconds < seconds) peaks.push_back(tried->forecast.peak);
    seconds = std::min(seconds, tried->forecast.seconds);
  }
  const auto least = static_cast<double>(sorted.front()->forecast.peak);
  const auto most = static_cast<double>(sorted.back()->forecast.peak);
  std::set<std::size_t> chosen;
  for (std::size_t i = 0; i < even_budgets; ++i) {
    const double share = static_cast<double>(i) / even_budgets;
    chosen.insert(static_cast<std::size_t>(least * std::pow(most / least, share)));
  }
  for (std::size_t i = 0; i < peak_budgets; ++i) chosen.insert(peaks[i * (peaks.size() - 1) / (peak_budgets - 1)]);
  return {chosen.begin(), chosen.end()};
}

}  // namespace palimpsest::memory
