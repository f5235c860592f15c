// Restoring: bringing absent values back by their recipes, and letting present ones go.

#include "autograd/pins.hpp"
#include "autograd/tape.hpp"

namespace palimpsest {

const Node* Recipe::via(const Value& value) const { return value.producer(); }

std::vector<Value*> Recipe::sources(const Value& value) const {
  std::vector<Value*> inputs;
  for (const ValuePtr& input : value.producer()->inputs) inputs.push_back(input.get());
  return inputs;
}

void Recipe::save(const View&) {}

std::optional<RecipePtr> Policy::reconsider(const Value&, const Offer&, const BlockInfo&) const { return std::nullopt; }

void Op::solve(std::span<const View>, const View&, const View&) const {
  throw StateError(concat_text("[", name(), "] cannot be solved for an input"));
}

View Restoring::destination() {
  tape_.make_memory(value_);
  return value_.view();
}

View Restoring::destination_over(Value& source) {
  // One pin: the restoring itself reads the source, for the last time.
  const bool free =
      source.pins_ == 1 && source.handles_ == 0 && source.readers_ == 0 && source.storage_.use_count() == 1;
  if (!free || source.arena_ >= 0 || source.bytes() != value_.bytes()) return destination();
  tape_.arenas_.transfer(source, value_);
  return value_.view();
}

void Restoring::replay() {
  Node& node = *value_.producer_;
  std::vector<View> inputs;
  for (const ValuePtr& input : node.inputs) inputs.push_back(input->view());
  std::vector<View> outputs;
  for (const ValuePtr& output : node.outputs) {
    outputs.push_back(output.get() == &value_ ? destination()
                                              : View{nullptr, output->shape(), output->dtype(), output->device()});
  }
  tape_.check_versions(node, all_bits);
  Forward io(inputs, outputs, Phase::Replay, value_.device(), &tape_);
  node.op->forward(io);
  if (node.op->cost() == Cost::Heavy) ++tape_.heavy_replays_;
}

namespace {

/// A value to be restored, and the values that must be present for it.
struct Step {
  Value* value;
  std::vector<Value*> sources;
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
  return steps;
}

}  // namespace

void Tape::restore(Value& target) {
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
  for (const Step& step : steps) {
    Value& value = *step.value;
    try {
      Restoring restoring(*this, value);
      value.recipe_->restore(restoring);
    } catch (...) {
      if (value.present()) drop(value);
      throw;
    }
    pins.pin(value);
    for (Value* source : step.sources) {
      if (--uses[source] == 0) pins.unpin(*source);
    }
  }
}

void Tape::save(Value& value) {
  if (value.recipe_ == nullptr || value.saved_) return;
  value.recipe_->save(value.view());
  value.saved_ = true;
}

void Tape::drop(Value& value) {
  if (value.arena_ >= 0) {
    arenas_.vacate(value);
  } else {
    value.storage_.reset();
  }
}

void Tape::drop_if_unwanted(Value& value) noexcept {
  if (value.pins_ > 0 || value.handles_ > 0 || !value.present()) return;
  const bool recipe_will_do = state_ == State::Recording && value.recipe_ != nullptr;
  if (value.readers_ > 0 && !recipe_will_do) return;
  try {
    if (value.readers_ > 0) save(value);
    drop(value);
  } catch (...) {
    save_error_ = std::current_exception();  // the bytes stay where they are
  }
}

void Tape::let_go(Value& value) noexcept {
  if (state_ == State::Recording || state_ == State::Backward) drop_if_unwanted(value);
}

}  // namespace palimpsest
