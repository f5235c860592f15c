// Restoring: bringing absent values back by their recipes, and letting present ones go.

#include <algorithm>
#include <exception>
#include <limits>
#include <unordered_set>
#include <utility>

#include <palimpsest/autograd/engine/pins.hpp>
#include <palimpsest/autograd/engine/run_op.hpp>
#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>
#include <palimpsest/autograd/engine/verifier.hpp>

namespace palimpsest {

View Restoring::destination() {
  tape_.make_memory(value_);
  return value_.view();
}

View Restoring::destination_over(Value& source) {
  const int arena = value_.state().recipe->arena();
  const bool alike = source.bytes() == value_.bytes() && source.dtype() == value_.dtype() &&
                     (arena < 0 || source.state().arena == arena);
  if (!alike || std::find(going_.begin(), going_.end(), &source) == going_.end()) return destination();
  tape_.take_over(source, value_);
  return value_.view();
}

void Restoring::take(std::shared_ptr<Storage> memory) {
  value_.state().storage = std::move(memory);
  observe_placed(value_);
}

void Restoring::replay() {
  Node& node = *value_.state().producer;
  const std::vector<View> inputs = views_of(node.inputs);
  std::vector<View> outputs;
  const int over = is_planned(node) ? -1 : node.op->overwritable_input();
  for (const ValuePtr& output : node.outputs) {
    if (output.get() != &value_) {
      outputs.push_back({nullptr, output->shape(), output->dtype(), output->device()});
    } else {
      outputs.push_back(over < 0 ? destination() : destination_over(*node.inputs[static_cast<std::size_t>(over)]));
    }
  }
  ForwardContext io(inputs, outputs, value_.device(), &tape_);
  node.op->forward(io);
  if (node.op->cost() == Cost::Heavy) tape_.count_heavy_replay();
}

namespace {

/// A value to be restored, and the values that must be present for it.
struct Step {
  Value* value;
  std::vector<Value*> sources;
  bool stays = true;  ///< if somebody will read it
};

/// Depth-first search, without recursion, for everything that must be restored before `target` can be. Steps come in an
/// order in which each finds its sources present. Throws StateError at a value that nothing can bring back.
std::vector<Step> plan(Value& target) {
  struct Frame {
    Step step;
    std::size_t next = 0;
  };
  const auto frame_of = [](Value& value) {
    if (value.recipe() == nullptr) {
      throw StateError(
          concat_text("the bytes of a ", value.shape(), " tensor were given up with a step that is over or failed"));
    }
    return Frame{{&value, value.recipe()->sources(value)}};
  };
  std::vector<Step> steps;
  std::unordered_map<Value*, bool> visited{{&target, true}};
  std::vector<Frame> stack;
  stack.push_back(frame_of(target));
  while (!stack.empty()) {
    Frame& top = stack.back();
    if (top.next == top.step.sources.size()) {
      steps.push_back(std::move(top.step));
      stack.pop_back();
      continue;
    }
    Value& source = *top.step.sources[top.next++];
    if (source.present() || !visited.emplace(&source, true).second) continue;
    stack.push_back(frame_of(source));
  }
  std::pair<int, int> least{std::numeric_limits<int>::max(), 0};
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const std::pair<int, int> nesting{step->value->state().depth, step->value->recipe()->nesting()};
    step->stays = nesting <= least;
    least = std::min(least, nesting);
  }
  return steps;
}

Work work_of(const Value& value, const Node* via) {
  const double bytes = static_cast<double>(value.bytes());
  if (via == nullptr) return {0, bytes};
  // Solving reads and writes what forward does.
  std::vector<View> outputs = views_of(via->outputs);
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    if (via->outputs[o].get() != &value && via == value.producer()) outputs[o].data = nullptr;
  }
  return via->op->forward_work(views_of(via->inputs), outputs);
}

}  // namespace

void Tape::restore_by_recipe(Value& value, std::span<Value* const> going) {
  const Node& producer = *value.state().producer;
  const Node* const via = value.recipe()->via(value);
  const Node& run = via != nullptr ? *via : producer;
  const RunKind kind = via == nullptr ? RunKind::Fetch : via == &producer ? RunKind::Replay : RunKind::Solve;
  const bool verified = verifier_ != nullptr && via != nullptr;
  const std::vector<Verifier::Mark> before = verified ? verifier_->state_before(run) : std::vector<Verifier::Mark>{};
  Restoring restoring(*this, value, going);
  run_op(
      {run, producer.block.get(), kind}, run.inputs, [&] { value.state().recipe->restore(restoring); },
      [&] { return work_of(value, via); });
  if (via == nullptr) value.state().storage->version = value.state().saved_version;
  if (verified) verifier_->check_state(run, before);
}

void Tape::restore(Value& target) {
  if (joined_ != nullptr) return joined()->restore(target);
  run_if_waiting(target);
  if (target.present()) return;
  const std::vector<Step> steps = plan(target);
  // Every source stays pinned from the moment it is present until its last use in the plan.
  PinSet pins(*this);
  std::unordered_map<Value*, int> uses;
  for (const Step& step : steps) {
    for (Value* source : step.sources) ++uses[source];
  }
  for (auto& [source, count] : uses) {
    if (source->present()) pins.pin(*source);
  }
  // In backward nothing takes memory away from a value that somebody will read, except in an arena: what has come back
  // stays, and what it was made from need not.
  const auto is_for_good = [this](const Step& step) {
    const Recipe& recipe = *step.value->recipe();
    const Node* const maker = step.value->producer();
    const bool counted = is_planned(*maker) && recipe.via(*step.value) == maker;
    return state_ == State::Backward && step.stays && recipe.arena() < 0 && !step.sources.empty() && !counted;
  };
  if (verifier_ != nullptr) verifier_->begin_plan();
  std::unordered_set<const Value*> passing;
  for (const Step& step : steps) {
    Value& value = *step.value;
    const Node* const via = value.state().recipe->via(value);
    if (via != nullptr) check_versions(*via, all_bits);
    for (const Value* source : step.sources) {
      if (source->producer() == via && source->present()) check_unchanged(*source);
    }
    if (verifier_ != nullptr) verifier_->check_sources(value, step.sources);
    const bool for_good = is_for_good(step);
    if (for_good) let_sources_go(value);
    std::vector<Value*> going;
    for (Value* source : step.sources) {
      if (uses[source] == 1 && may_go(*source, passing.contains(source))) going.push_back(source);
    }
    try {
      restore_by_recipe(value, going);
      if (verifier_ != nullptr) verifier_->check_restored(value, step.sources);
      if (for_good) forget_recipe(value);
    } catch (...) {
      if (value.present()) drop(value);
      throw;
    }
    pins.pin(value);
    if (!step.stays) passing.insert(&value);
    for (Value* source : step.sources) {
      if (--uses[source] > 0) continue;
      pins.unpin(*source);
      const bool read_now = source->state().pins > 0 || source->state().handles > 0;
      if (passing.contains(source) && !read_now && source->present()) drop(*source);
    }
  }
}

bool Tape::may_go(const Value& value, bool passing) const {
  const ValueState& state = value.state();
  // One pin: the plan's own.
  if (value.leaf() || state.pins > 1 || state.handles > 0 || state.storage.use_count() > 1) return false;
  const bool comes_back = state.recipe != nullptr && state.recipe->via(value) != nullptr;
  return state.readers == 0 || (comes_back && (passing || state_ == State::Recording || state.arena >= 0));
}

void Tape::take_over(Value& from, Value& to) {
  if (from.readers() > 0) save(from);
  arenas().transfer(from, to);
  if (to.state().arena >= 0 && to.state().recipe->arena() < 0) arenas().release(to);
  observe_placed(to);
}

void Tape::save(Value& value) {
  if (verifier_ != nullptr) verifier_->leaves(value);
  if (value.state().recipe == nullptr || value.state().saved) return;
  const bool sole = value.state().storage.use_count() == 1;
  value.state().recipe->save(value.view(), sole ? value.state().storage : nullptr);
  value.state().saved = true;
  if (value.state().recipe->via(value) == nullptr) value.state().saved_version = value.state().storage->version;
}

bool Tape::can_return(const Value& value) {
  if (value.present()) return true;
  // A recipe that runs no node has nothing but what it has saved.
  return value.state().recipe != nullptr && (value.state().saved || value.state().recipe->via(value) != nullptr);
}

void Tape::let_sources_go(Value& value) noexcept { let_go_of(std::exchange(value.state().sources, {})); }

void Tape::let_go_of(std::vector<Value*> sources) noexcept {
  for (std::size_t i = 0; i < sources.size(); ++i) {
    Value& source = *sources[i];
    --source.state().readers;
    drop_bytes_if_unwanted(source);
    if (!source.state().unwanted()) continue;
    const std::vector<Value*> next = std::exchange(source.state().sources, {});
    sources.insert(sources.end(), next.begin(), next.end());
  }
}

void Tape::forget_recipe(Value& value) {
  let_sources_go(value);
  value.state().recipe = nullptr;
  if (value.state().arena >= 0)
    arenas().release(value);  // the next tenant would take bytes that nothing can bring back
}

void Tape::drop(Value& value) {
  if (value.state().arena >= 0) {
    arenas().vacate(value);
  } else {
    value.state().storage.reset();
  }
}

void Tape::drop_if_unwanted(Value& value) noexcept {
  drop_bytes_if_unwanted(value);
  if (value.state().unwanted() && !value.state().sources.empty()) let_sources_go(value);
}

void Tape::drop_bytes_if_unwanted(Value& value) noexcept {
  if (value.state().pins > 0 || value.state().handles > 0 || !value.present()) return;
  const bool recipe_will_do = state_ == State::Recording && value.state().recipe != nullptr;
  if (value.state().readers > 0 && !recipe_will_do) return;
  try {
    if (value.state().readers > 0) {
      save(value);
    } else if (verifier_ != nullptr && state_ == State::Recording) {
      verifier_->leaves(value);  // a recipe offered later may still bring it back
    }
    drop(value);
  } catch (...) {
    save_error_ = std::current_exception();  // the bytes stay where they are
  }
}

void Tape::hold(Value& value) noexcept {
  if (!value.leaf()) ++whole().in_hand_;
}

void Tape::let_go(Value& value) noexcept {
  if (joined_ != nullptr) return whole().let_go(value);
  if (state_ != State::Recording && state_ != State::Backward) return;
  if (std::uncaught_exceptions() > exceptions_) interrupted_ = true;
  Node* const maker = value.state().producer;
  if (maker != nullptr && value.state().handles == 0) --in_hand_;
  if (maker != nullptr && maker->waits && value.state().handles == 0) return undo_waiting(*maker);
  drop_if_unwanted(value);
  // The tensors that still hold the tape may be of what has been used up.
  if (partly_used_ && in_hand_ == 0 && state_ == State::Recording) abandon();
}

}  // namespace palimpsest
