#include <palimpsest/memory/planner/planned_order.hpp>

namespace palimpsest::memory {

PlannedOrder::PlannedOrder(const StepTrace& step) {
  std::size_t next = 0;
  for (std::size_t i = 0; i < step.ops.size(); ++i) {
    const StepTrace::Op& op = step.ops[i];
    if (i > 0 && op.session != step.ops[i - 1].session) next = 0;
    std::size_t place = no_place;
    if (op.has_policy) {
      place = follow(op.name, next);
      if (place == no_place) place = add(op, next);
      next = place + 1;
    }
    place_of_op_.push_back(place);
  }
}

std::size_t PlannedOrder::add(const StepTrace::Op& op, std::size_t next) {
  if (next != names_.size()) others_.emplace_back(next, names_.size());
  names_.push_back(op.name);
  begins_.push_back(op.begins);
  return names_.size() - 1;
}

std::size_t PlannedOrder::follow(std::string_view name, std::size_t next) const {
  if (next < names_.size() && names_[next] == name) return next;
  for (const auto& [place, instead] : others_) {
    if (place == next && names_[instead] == name) return instead;
  }
  return no_place;
}

std::size_t PlannedOrder::beginning(std::string_view name) const {
  const std::size_t first = follow(name, 0);
  if (first != no_place) return first;
  for (std::size_t place = 0; place < names_.size(); ++place) {
    if (begins_[place] && names_[place] == name) return place;
  }
  return no_place;
}

}  // namespace palimpsest::memory
