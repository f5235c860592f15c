// Deciding how a value reaches backward: what policies are asked, and what becomes of their answers.

#include <algorithm>
#include <unordered_set>
#include <utility>

#include <palimpsest/autograd/engine/block_recording.hpp>
#include <palimpsest/autograd/engine/pins.hpp>
#include <palimpsest/autograd/engine/run_op.hpp>
#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>
#include <palimpsest/autograd/engine/verifier.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>

namespace palimpsest {
namespace {

std::size_t place_of(const Value& value) { return value.producer() != nullptr ? value.producer()->index : 0; }

/// True if making `sources` present may take `value` itself. A present value counts as absent: it may be dropped.
/// Values that come before it are on no way back to it unless one of them is solved from what came later
/// (`solved_from` is the session's): in a chain of couplings that saves looking at all of the chain.
bool depend_on(const std::vector<Value*>& sources, const Value& value, std::size_t solved_from) {
  const std::size_t place = place_of(value);
  std::vector<Value*> pending = sources;
  std::unordered_set<const Value*> visited;
  while (!pending.empty()) {
    const Value& next = *pending.back();
    pending.pop_back();
    if (&next == &value) return true;
    if (place_of(next) < place && solved_from <= place) continue;
    if (next.recipe() == nullptr || !visited.insert(&next).second) continue;
    for (Value* source : next.recipe()->sources(next)) pending.push_back(source);
  }
  return false;
}

}  // namespace

bool Tape::can_be_read(const std::vector<Value*>& sources, const Value& reader) {
  // The sources of a wanted value are there for it.
  std::vector<const Value*> pending;
  const auto can_return_alone = [&](const Value* source) {
    if (source == &reader || !can_return(*source)) return false;
    if (!source->present() && source->state().unwanted()) pending.push_back(source);
    return true;
  };
  if (!std::all_of(sources.begin(), sources.end(), can_return_alone)) return false;
  std::unordered_set<const Value*> visited;
  while (!pending.empty()) {
    const Value& unwanted = *pending.back();
    pending.pop_back();
    if (!visited.insert(&unwanted).second) continue;
    const std::vector<Value*> next = unwanted.recipe()->sources(unwanted);
    if (!std::all_of(next.begin(), next.end(), can_return_alone)) return false;
  }
  return true;
}

void Tape::read_sources(Value& value, std::vector<Value*> sources) {
  std::vector<Value*> revived;
  const auto read = [&](Value& reader, std::vector<Value*> all) {
    for (Value* source : all) {
      if (source->state().unwanted() && source->recipe() != nullptr) revived.push_back(source);
      ++source->state().readers;
    }
    reader.state().sources = std::move(all);
  };
  read(value, std::move(sources));
  while (!revived.empty()) {
    Value& next = *revived.back();
    revived.pop_back();
    read(next, next.recipe()->sources(next));
  }
}

std::optional<RecipePtr> Tape::recipe_around(const BlockRecording& entered, Value& value) const {
  const Node& maker = *value.state().producer;
  const BlockRecording* around = entered.outer;
  while (around != nullptr && maker.index < around->first_node) around = around->outer;
  // A model is no block to those that go on instead of a plan: what it makes outside its blocks they keep.
  const bool planned = is_planned(maker);
  while (around != nullptr && !(planned ? around->has_policy() : around->is_block())) around = around->outer;
  if (around == nullptr) return nullptr;
  // A value that has been moved elsewhere need not be decided about again: its recipe may have saved the bytes.
  const Recipe* const now = value.recipe();
  if (now != nullptr && now->via(value) == nullptr && now->sources(value).empty()) return std::nullopt;
  value.state().depth = planned ? around->depth() : around->blocks() - 1;
  return around->block->policy->decide(value, *maker.op, *around->block);
}

bool Tape::frees_nothing(const Node& node, std::span<const Tensor> inputs, const Value& output) const {
  std::size_t held_for_it = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Value& input = inputs[i].value();
    const bool will_go = is_sole(inputs[i]) && input.recipe() == nullptr && input.readers() == 0;
    if (will_go && !node.needs.input(i)) held_for_it += input.bytes();
  }
  return held_for_it >= output.bytes();
}

std::optional<RecipePtr> Tape::ask_about_stream(const Node& node) const {
  const int solvable = node.op->solvable_input();
  if (solvable < 0 || node.policy == nullptr) return std::nullopt;
  const ValuePtr& stream = node.inputs[static_cast<std::size_t>(solvable)];
  const bool only_once = std::count(node.inputs.begin(), node.inputs.end(), stream) == 1;
  if (stream->leaf() || !only_once) return std::nullopt;
  return node.policy->reconsider(*stream, {Offer::Kind::Solvable, &node}, *node.block);
}

RangeMark* Tape::mark_for(const Node& node) {
  if (node.outputs[0]->device() != Device::Cuda) return nullptr;
  auto& marks = node.block->marks;
  const std::size_t number = recording_of_block()->marked++;
  if (number == marks.size()) marks.push_back(std::make_shared<RangeMark>());
  const std::shared_ptr<RangeMark>& mark = marks[number];
  if (!mark->left()) relied_on_.emplace_back(mark, mark->times_found());
  return mark.get();
}

void Tape::check_marks(Device device) const {
  if (relied_on_.empty()) return;
  synchronize(device);  // throws what a kernel has found, unless it was told before
  const auto is_set = [](const auto& relied_on) { return relied_on.first->times_found() != relied_on.second; };
  if (std::none_of(relied_on_.begin(), relied_on_.end(), is_set)) return;
  throw RangeError("backward: a stream has left the range in which it can be solved for: run the step again");
}

void Tape::make_offers(Node& node, std::optional<RecipePtr> for_stream) {
  const int solvable = node.op->solvable_input();
  if (solvable < 0 || node.policy == nullptr) return;
  Value& stream = *node.inputs[static_cast<std::size_t>(solvable)];
  BlockRecording& recording = *recording_of_block();
  std::size_t first = nodes_.size();
  while (first > 0 && nodes_[first - 1].index >= recording.branch_start) --first;
  for (std::size_t i = first; i < nodes_.size() && nodes_[i].index < node.index; ++i) {
    const Node& made = nodes_[i];
    if (made.block != node.block || made.waits) continue;
    for (const ValuePtr& output : made.outputs) {
      if (output.get() != &stream && !made.needs.optional_output(output->output()))
        offer(*output, {Offer::Kind::InsideBranch, &node}, *node.policy, *node.block);
    }
  }
  recording.branch_start = node.index + 1;
  if (!for_stream) return;
  if (node.op->can_solve()) {
    accept(stream, std::move(*for_stream));
  } else if (*for_stream != nullptr) {
    ++unsolvable_;  // and it stays
    unsolvable_bytes_ += stream.bytes();
  }
}

void Tape::offer(Value& value, const Offer& offer, const Policy& policy, const BlockInfo& block) {
  std::optional<RecipePtr> recipe = policy.reconsider(value, offer, block);
  if (recipe) accept(value, std::move(*recipe));
}

void Tape::accept(Value& value, RecipePtr recipe) {
  // Bytes that are gone cannot be saved any more.
  const bool too_late = recipe != nullptr && !value.present() && recipe->via(value) == nullptr;
  if (!too_late && adopt(value, std::move(recipe))) drop_if_unwanted(value);
}

bool Tape::adopt(Value& value, RecipePtr recipe) {
  if (recipe == nullptr) {
    // A value without bytes cannot be kept any more; its recipe still brings it back.
    if (value.present()) forget_recipe(value);
    return value.state().recipe == nullptr;
  }
  const std::vector<Value*> sources = recipe->sources(value);
  if (!can_be_read(sources, value)) return false;
  // A value that no recipe and no gradient reads is on no way back to itself.
  if (value.state().readers > 0 && depend_on(sources, value, session_->solved_from)) return false;
  if (verifier_ != nullptr) {
    for (const Value* source : sources) verifier_->remember(*source);
  }
  Node* const via = const_cast<Node*>(recipe->via(value));
  const std::vector<Value*> before = std::exchange(value.state().sources, {});
  if (!value.state().unwanted()) read_sources(value, sources);
  let_go_of(before);
  if (via != nullptr && via != value.state().producer) via->solvable.push_back(&value);
  if (value.state().arena >= 0 && value.state().arena != recipe->arena()) arenas().release(value);
  if (value.state().recipe != recipe) value.state().saved = false;
  const auto stays_or_is_light = [](const Value* source) {
    return source->recipe() == nullptr || source->state().light;
  };
  value.state().light =
      value.producer()->op->cost() != Cost::Heavy && std::all_of(sources.begin(), sources.end(), stays_or_is_light);
  for (const Value* source : sources) {
    if (source->producer() == nullptr || place_of(*source) < place_of(value)) continue;
    session_->solved_from = std::max(session_->solved_from, place_of(*source) + 1);
  }
  value.state().recipe = std::move(recipe);
  return true;
}

}  // namespace palimpsest
