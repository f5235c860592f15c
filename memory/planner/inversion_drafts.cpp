#include <algorithm>

#include <palimpsest/memory/planner/strategies.hpp>

namespace palimpsest::memory {
namespace {

// Three or twelve numbers of couplings change the times of RevNet-110's plans by 0.02 % at most; twelve take 33 more
// rehearsals than six. Eight segments for sixteen leave 72 instead of 82 plans to choose from.
constexpr std::size_t inversions = 6;
constexpr std::size_t segments = 16;

Draft inverted(const StepItems& items, std::size_t couplings, std::size_t segment_bytes) {
  const int last = items[items.couplings()[couplings - 1]].coupling;
  Draft draft = items.everything(segment_bytes > 0 ? Way::Replay : Way::Keep);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    if (item.op < last && item.coupling < 0) draft.choices[i] = {Way::Replay};
    if (item.coupling >= 0 && item.coupling <= last) draft.choices[i] = {Way::Invert};
  }
  // The first coupling's inputs, and everything before them, are inside no branch.
  for (std::size_t i = 0; i < items.couplings().front(); ++i) draft.choices[i] = {};
  items.keep_at_cuts(draft, segment_bytes);
  return draft;
}

}  // namespace

std::vector<Draft> inversion_drafts(const StepItems& items) {
  const std::size_t couplings = items.couplings().size();
  std::vector<Draft> drafts;
  for (std::size_t part = 1; part <= inversions && couplings > 0; ++part) {
    const std::size_t count = std::max<std::size_t>(1, couplings * part / inversions);
    drafts.push_back(inverted(items, count, 0));
    drafts.push_back(inverted(items, count, items.needed_bytes() / segments));
  }
  return drafts;
}

}  // namespace palimpsest::memory
