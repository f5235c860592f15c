#include <algorithm>
#include <limits>
#include <set>
#include <span>

#include <palimpsest/memory/planner/chain.hpp>
#include <palimpsest/memory/planner/strategies.hpp>

namespace palimpsest::memory {
namespace {

// The dynamic program takes O(links^3): 128 is more than any ResNet of this library has units, and below
// Plan::most_nesting.
constexpr int most_links = 128;
// In chains up to this length no list is thinned: the schedules are the best there are.
constexpr int short_chain = 20;
// Sixteen alternatives for 32 leave 57 instead of 66 plans of ResNet-56, in 29 rehearsals less.
constexpr std::size_t most_alternatives = 32;
// As many schedules are rehearsed as make up so many ops: half of it leaves 62 instead of 66 plans of ResNet-56, twice
// as many find none more.
constexpr std::size_t least_schedules = 24;
constexpr std::size_t ops_to_rehearse = 4096;

/// A chain, and which results of its links are kept (ChainSchedule::kept) or with what nesting they are replayed.
struct Linked {
  const Chain* chain;
  std::function<int(int link)> nesting;
};

/// All else inside the chains is replayed when its link's turn comes; what is in none comes back in the way of the
/// `rest`.
Draft linked(const StepItems& items, std::span<const Linked> chains, Way rest) {
  Draft draft = items.everything(rest);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto own = std::find_if(chains.begin(), chains.end(),
                                  [&](const Linked& one) { return one.chain->link_of(items[i].op) >= 0; });
    if (own == chains.end()) continue;
    const int link = own->chain->link_that_ends_in(items[i].op, items[i].output);
    const int level = link >= 0 ? own->nesting(link) : Plan::most_nesting;
    draft.fixed[i] = level == ChainSchedule::kept;
    draft.choices[i] = draft.fixed[i] ? Choice{} : Choice{.way = Way::Replay, .nesting = level};
  }
  return draft;
}

struct Scheduled {
  Chain chain;
  std::vector<ChainSchedule> schedules;  ///< from the least bytes to the least time; not empty
};

/// The best schedules of a session that is a chain.
std::optional<Scheduled> schedules_of(std::size_t session, const StepItems& items, const StepTrace& step,
                                      const Rates& rates, const std::function<StepTrace(const Plan& plan)>& watch) {
  std::optional<Chain> chain = Chain::find(step, session, most_links);
  if (!chain) return std::nullopt;
  const int last = chain->count() - 1;
  const auto links = chain->measure(rates, [&](const Chain::Keeps& keeps) {
    const Linked measured{&*chain, [&](int link) { return link == last || keeps(link) ? ChainSchedule::kept : 0; }};
    Plan plan = items.complete(linked(items, {&measured, 1}, Way::Keep));
    StepTrace watched = watch(plan);
    return Chain::Rehearsed{std::move(plan), std::move(watched)};
  });
  if (!links) return std::nullopt;
  const std::size_t alternatives = last < short_chain ? std::numeric_limits<std::size_t>::max() : most_alternatives;
  std::vector<ChainSchedule> schedules = chain_schedules(*links, chain->floor(), alternatives);
  if (schedules.empty()) return std::nullopt;
  return Scheduled{std::move(*chain), std::move(schedules)};
}

/// The fastest schedule with at most that peak, or the thriftiest.
const ChainSchedule& schedule_within(std::int64_t peak, const std::vector<ChainSchedule>& schedules) {
  const auto beyond = std::upper_bound(schedules.begin(), schedules.end(), peak,
                                       [](std::int64_t most, const ChainSchedule& one) { return most < one.peak; });
  return beyond == schedules.begin() ? *beyond : *std::prev(beyond);
}

/// Each chain by its best schedule within that peak.
Draft draft_within(std::int64_t peak, const StepItems& items, const std::vector<Scheduled>& scheduled) {
  std::vector<Linked> chains;
  for (const Scheduled& one : scheduled) {
    const ChainSchedule& schedule = schedule_within(peak, one.schedules);
    chains.push_back({&one.chain, [&schedule, last = one.chain.count() - 1](int link) {
                        return link == last ? ChainSchedule::kept : schedule.nesting[static_cast<std::size_t>(link)];
                      }});
  }
  return linked(items, chains, Way::Replay);
}

}  // namespace

std::vector<Draft> chain_drafts(const StepItems& items, const StepTrace& step, const Rates& rates,
                                const std::function<StepTrace(const Plan& plan)>& watch) {
  const std::vector<StepTrace::Session> sessions = step.sessions();
  std::vector<Scheduled> scheduled;
  std::set<std::int64_t> different;
  for (std::size_t session = 0; session < sessions.size(); ++session) {
    if (!items.leads(sessions[session])) continue;
    std::optional<Scheduled> found = schedules_of(session, items, step, rates, watch);
    if (!found) continue;
    for (const ChainSchedule& schedule : found->schedules) different.insert(schedule.peak);
    scheduled.push_back(std::move(*found));
  }
  const std::vector<std::int64_t> peaks(different.begin(), different.end());
  const std::size_t count = std::min(peaks.size(), std::max(least_schedules, ops_to_rehearse / step.ops.size()));
  std::vector<Draft> drafts;
  for (std::size_t i = 0; i < count; ++i)
    drafts.push_back(draft_within(peaks[count > 1 ? i * (peaks.size() - 1) / (count - 1) : 0], items, scheduled));
  return drafts;
}

}  // namespace palimpsest::memory
