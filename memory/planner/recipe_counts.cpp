#include <palimpsest/memory/planner/recipe_counts.hpp>

#include <vector>

#include <palimpsest/core/error.hpp>

namespace palimpsest::memory {

namespace {

std::size_t* count_of(Way way, RecipeCounts& counts) {
  switch (way) {
    case Way::Keep:
      return &counts.kept;
    case Way::Replay:
      return &counts.replayed;
    case Way::Arena:
      return &counts.into_arenas;
    case Way::Invert:
      return &counts.inverted;
    case Way::Fetch:
      return &counts.offloaded;
    case Way::Other:
      break;
  }
  return &counts.others;
}

}  // namespace

RecipeCounts count_recipes(const StepTrace& step) {
  RecipeCounts counts;
  std::vector<bool> seen(step.values.size());
  std::vector<int> open;
  const auto reach = [&](int number) {
    const auto index = static_cast<std::size_t>(number);
    if (seen[index] || step.values[index].op < 0) return;
    seen[index] = true;
    open.push_back(number);
  };
  for (std::size_t i = 0; i < step.values.size(); ++i) {
    if (!step.values[i].read_by.empty()) reach(static_cast<int>(i));
  }
  while (!open.empty()) {
    const int number = open.back();
    open.pop_back();
    const StepTrace::Value& value = step.value(number);
    ++*count_of(value.way, counts);
    if (value.nesting > 0) ++counts.nested;
    if (!value.exact) ++counts.inexact;
    for (const int source : value.sources) reach(source);
  }
  return counts;
}

std::string to_text(const RecipeCounts& counts) {
  return concat_text(counts.kept, " kept, ", counts.replayed, " replayed (", counts.nested, " of them nested), ",
                     counts.into_arenas, " into arenas, ", counts.inverted, " inverted, ", counts.offloaded,
                     " offloaded", counts.others > 0 ? concat_text(", ", counts.others, " by other recipes") : "");
}

}  // namespace palimpsest::memory
