#include <palimpsest/memory/planner/search.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include <palimpsest/memory/planner/strategies.hpp>

namespace palimpsest::memory {
namespace {

// Budgets to refill: evenly spread, and peaks of plans. Twice as many even ones take 235 instead of 175 rehearsals of
// DenseNet-100 and 499 instead of 393 of ResNet-56, for 0.1 %; half of them lose 0.3 and 0.4 %. Twice as many peaks
// take 535 rehearsals of ResNet-56, for 0.1 %.
constexpr std::size_t even_budgets = 14;
constexpr std::size_t peak_budgets = 12;
// Values that may turn out not to fit any more until a budget counts as filled, fewer in long steps: twice as many take
// half as many rehearsals again of RevNet-110 and ResNet-56 and win nothing there, 0.1 % of DenseNet-100.
constexpr std::size_t most_misses = 12;
constexpr std::size_t least_misses = 2;
constexpr std::size_t ops_to_miss = 10000;

}  // namespace

Search::Search(const StepTrace& step, const Rates& rates, TryOut try_out, Watch watch)
    : step_(step), rates_(rates), try_out_(std::move(try_out)), watch_(std::move(watch)), items_(step, rates) {}

StepForecast Search::attempt(const Draft& draft) {
  Plan plan = items_.complete(draft);
  for (const Tried& tried : tried_) {
    if (tried.plan == plan) return tried.forecast;
  }
  const StepForecast taken = try_out_(plan);
  tried_.push_back({draft, std::move(plan), taken});
  return taken;
}

void Search::attempt_all(const std::vector<Draft>& drafts) {
  for (const Draft& draft : drafts) attempt(draft);
}

void Search::run(const std::optional<OffloadOptions>& offloading) {
  attempt(items_.everything(Way::Keep));
  attempt_all(segment_drafts(items_, offloading));
  attempt_all(inversion_drafts(items_));
  attempt_all(chain_drafts(items_, step_, rates_, watch_));
  for (const std::size_t budget : budgets()) refill(best_within(budget).draft, budget);
}

const Search::Tried& Search::best_within(std::size_t budget) const {
  const Tried* best = nullptr;
  for (const Tried& tried : tried_) {
    if (tried.forecast.peak > budget) continue;
    if (best == nullptr || tried.forecast.seconds < best->forecast.seconds) best = &tried;
  }
  return *best;
}

std::vector<std::size_t> Search::dearest_first(const Draft& draft) const {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (draft.choices[i].way != Way::Keep && items_[i].needed) order.push_back(i);
  }
  const auto worth = [&](std::size_t i) {
    const bool moved = draft.choices[i].way == Way::Fetch;
    return moved ? 2 / rates_.offload_bytes_per_second : items_[i].seconds_per_byte();
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return worth(a) > worth(b); });
  return order;
}

void Search::refill(Draft draft, std::size_t budget) {
  const std::vector<std::size_t> order = dearest_first(draft);
  std::size_t misses = std::clamp(ops_to_miss / items_.ops(), least_misses, most_misses);
  for (std::size_t at = 0, count = std::max<std::size_t>(1, order.size() / 2); at < order.size();) {
    Draft richer = draft;
    const std::size_t end = std::min(order.size(), at + count);
    for (std::size_t i = at; i < end; ++i) richer.choices[order[i]] = {};
    if (attempt(richer).peak <= budget) {
      draft = std::move(richer);
      at = end;
    } else if (count == 1) {
      if (--misses == 0) return;
      ++at;  // a smaller one may still fit
    }
    count = std::max<std::size_t>(1, count / 2);
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
