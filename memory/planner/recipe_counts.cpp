#include <palimpsest/memory/planner/recipe_counts.hpp>

#include <vector>

#include <palimpsest/core/error.hpp>

namespace palimpsest::memory {

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
    const StepTrace::Value& value = step.values[static_cast<std::size_t>(number)];
    if (value.recipe == "keep") {
      ++counts.kept;
    } else if (value.recipe == "invert") {
      ++counts.inverted;
      if (!value.exact) ++counts.inexact;
      const StepTrace::Op& coupling = step.ops[static_cast<std::size_t>(value.solvable_from)];
      reach(coupling.outputs[0]);
      for (const int input : coupling.inputs) reach(input);
    } else if (value.recipe == "fetch") {
      ++counts.offloaded;
    } else {
      ++(value.arena >= 0 ? counts.into_arenas : counts.replayed);
      if (value.nesting > 0) ++counts.nested;
      for (const int input : step.ops[static_cast<std::size_t>(value.op)].inputs) reach(input);
    }
  }
  return counts;
}

std::string to_text(const RecipeCounts& counts) {
  return concat_text(counts.kept, " kept, ", counts.replayed, " replayed (", counts.nested, " of them nested), ",
                     counts.into_arenas, " into arenas, ", counts.inverted, " inverted, ", counts.offloaded,
                     " offloaded");
}

}  // namespace palimpsest::memory
