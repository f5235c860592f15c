#include <palimpsest/memory/planner/step_items.hpp>

#include <algorithm>

#include <palimpsest/memory/policies.hpp>

namespace palimpsest::memory {

StepItems::StepItems(const StepTrace& step, const Rates& rates)
    : step_(step), kept_(step), op_at_place_(kept_.order().size(), -1), item_of_value_(step.values.size(), -1) {
  std::vector<double> seconds(step.ops.size());
  for (const StepTrace::Run& run : step.runs) {
    if (run.kind == RunKind::Forward) seconds[static_cast<std::size_t>(run.op)] = rates.seconds(run.work);
  }
  std::vector<StepTrace::Session> sessions = step.sessions();
  std::stable_sort(sessions.begin(), sessions.end(), [](const auto& a, const auto& b) { return a.peak > b.peak; });
  for (const StepTrace::Session& session : sessions) add_session(session, seconds);
  crossing_bytes_.resize(step.ops.size() + 1);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    if (item.coupling >= 0) couplings_.push_back(i);
    for (int position = item.op + 1; position <= item.last_use; ++position)
      crossing_bytes_[static_cast<std::size_t>(position)] += item.bytes;
  }
}

void StepItems::add_session(const StepTrace::Session& session, std::span<const double> seconds) {
  for (std::size_t o = session.ops.begin; o < session.ops.end; ++o) {
    const StepTrace::Op& op = step_.ops[o];
    const int number = static_cast<int>(o);
    const std::size_t place = kept_.order().place_of(number);
    if (place == no_place) continue;
    int& first = op_at_place_[place];
    if (first < 0) first = number;
    for (std::size_t i = 0; i < op.outputs.size(); ++i) {
      const StepTrace::Value& value = step_.value(op.outputs[i]);
      int& item = item_of_value_[static_cast<std::size_t>(op.outputs[i])];
      // Optional outputs are never made: a kernel that works them out as it reads is faster than their bytes.
      if (value.optional) continue;
      if (first == number) {
        item = static_cast<int>(items_.size());
        add(op, value, number, seconds[o]);
      } else if (i < step_.op(first).outputs.size()) {
        item = item_of(step_.op(first).outputs[i]);
        if (item >= 0 && !value.read_by.empty()) items_[static_cast<std::size_t>(item)].needed = true;
      }
    }
  }
}

bool StepItems::leads(const StepTrace::Session& session) const {
  bool any = false;
  for (int op = static_cast<int>(session.ops.begin); op < static_cast<int>(session.ops.end); ++op) {
    const std::size_t place = kept_.order().place_of(op);
    if (place == no_place) continue;
    if (op_at_place_[place] != op) return false;
    any = true;
  }
  return any;
}

void StepItems::add(const StepTrace::Op& op, const StepTrace::Value& value, int number, double seconds) {
  Item item{.op = number,
            .output = value.output,
            .bytes = value.bytes,
            .needed = !value.read_by.empty(),
            .return_cost = seconds,
            .coupling = value.solvable_from};
  std::size_t input_bytes = 0;
  std::size_t streams = 0;
  for (const int input : op.inputs) {
    if (item_of(input) < 0) continue;
    Item& source = items_[static_cast<std::size_t>(item_of(input))];
    if (step_.op(source.op).session == op.session) source.last_use = number;
    input_bytes += source.bytes;
    ++streams;
    if (!source.needed) item.return_cost += source.return_cost;
  }
  const std::optional<int> arena = shared_arena(op.cost, value.bytes, input_bytes, streams);
  if (arena && value.solvable_from < 0) item.again = {Way::Arena, *arena};
  items_.push_back(item);
}

std::size_t StepItems::needed_bytes() const {
  std::size_t bytes = 0;
  for (const Item& item : items_) bytes += item.needed ? item.bytes : 0;
  return bytes;
}

Draft StepItems::everything(Way way) const {
  return {std::vector<Choice>(items_.size(), Choice{way}), std::vector<bool>(items_.size())};
}

Draft StepItems::read_off(const StepTrace& step) const {
  Draft draft = everything(Way::Keep);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const int number = step.op(items_[i].op).outputs[static_cast<std::size_t>(items_[i].output)];
    const StepTrace::Value& value = step.value(number);
    draft.choices[i] = {value.way, value.arena, value.nesting};
    draft.fixed[i] = value.way == Way::Keep;
  }
  return draft;
}

std::vector<int> StepItems::cuts(std::size_t segment_bytes) const {
  std::vector<std::size_t> made(step_.ops.size() + 1);  // before each position
  for (const Item& item : items_) made[static_cast<std::size_t>(item.op) + 1] += item.bytes;
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

void StepItems::keep_at_cuts(Draft& draft, std::size_t segment_bytes) const {
  if (segment_bytes == 0) return;
  for (const int cut : cuts(segment_bytes)) {
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (items_[i].op >= cut || items_[i].last_use < cut || draft.choices[i].way == Way::Invert) continue;
      draft.choices[i] = {};
      draft.fixed[i] = true;
    }
  }
}

Plan StepItems::complete(const Draft& draft) const {
  std::vector<bool> read(items_.size());
  const auto mark = [&](const std::vector<int>& values) {
    for (const int value : values) {
      if (item_of(value) >= 0) read[static_cast<std::size_t>(item_of(value))] = true;
    }
  };
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (draft.choices[i].way == Way::Invert) mark(step_.op(items_[i].coupling).inputs);
  }
  Plan plan = kept_;
  for (std::size_t i = items_.size(); i-- > 0;) {
    const Item& item = items_[i];
    Choice choice = draft.choices[i];
    if (!item.needed && choice.way != Way::Invert) {
      choice = read[i] && !draft.fixed[i] ? Choice{.way = Way::Replay, .nesting = choice.nesting} : Choice{};
    }
    plan.set(item.op, item.output, choice);
    if (choice.way == Way::Replay || choice.way == Way::Arena) mark(step_.op(item.op).inputs);
  }
  return plan;
}

}  // namespace palimpsest::memory
