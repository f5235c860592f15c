#include <algorithm>
#include <limits>

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

/// Results of links are kept, or replayed with a nesting; all else is replayed when its link's turn comes.
Draft linked(const StepItems& items, const Chain& chain, const std::function<int(int link)>& nesting) {
  Draft draft = items.everything(Way::Replay);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const int link = chain.link_that_ends_in(items[i].op, items[i].output);
    const int level = link >= 0 ? nesting(link) : Plan::most_nesting;
    if (level == ChainSchedule::kept) {
      draft.choices[i] = {};
      draft.fixed[i] = true;
    } else {
      draft.choices[i].nesting = level;
    }
  }
  return draft;
}

}  // namespace

std::vector<Draft> chain_drafts(const StepItems& items, const StepTrace& step, const Rates& rates,
                                const std::function<StepTrace(const Plan& plan)>& watch) {
  std::optional<Chain> chain = Chain::find(step, most_links);
  if (!chain) return {};
  const int last = chain->count() - 1;
  const auto links = chain->measure(rates, [&](const Chain::Keeps& keeps) {
    Plan plan = items.complete(
        linked(items, *chain, [&](int link) { return link == last || keeps(link) ? ChainSchedule::kept : 0; }));
    StepTrace watched = watch(plan);
    return Chain::Rehearsed{std::move(plan), std::move(watched)};
  });
  if (!links) return {};
  const std::size_t alternatives = last < short_chain ? std::numeric_limits<std::size_t>::max() : most_alternatives;
  const std::vector<ChainSchedule> schedules = chain_schedules(*links, chain->floor(), alternatives);
  const std::size_t count = std::min(schedules.size(), std::max(least_schedules, ops_to_rehearse / step.ops.size()));
  std::vector<Draft> drafts;
  for (std::size_t i = 0; i < count; ++i) {
    const ChainSchedule& schedule = schedules[count > 1 ? i * (schedules.size() - 1) / (count - 1) : 0];
    drafts.push_back(linked(items, *chain, [&](int link) {
      return link == last ? ChainSchedule::kept : schedule.nesting[static_cast<std::size_t>(link)];
    }));
  }
  return drafts;
}

}  // namespace palimpsest::memory
