// Backward: nodes in reverse order, values restored as they are needed and let go as soon as nobody will read them.

#include <algorithm>
#include <map>
#include <utility>

#include <palimpsest/autograd/engine/gradient_storage.hpp>
#include <palimpsest/autograd/engine/pins.hpp>
#include <palimpsest/autograd/engine/run_op.hpp>
#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>
#include <palimpsest/autograd/engine/verifier.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/elementwise.hpp>
#include <palimpsest/core/error.hpp>

namespace palimpsest {
namespace {

Work backward_work(const Node& node) {
  std::vector<View> inputs = views_of(node.inputs);
  std::vector<View> outputs = views_of(node.outputs);
  std::vector<bool> wanted;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!node.needs.input(i)) inputs[i].data = nullptr;
    wanted.push_back(node.inputs[i]->requires_grad());
  }
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    if (!node.needs.output(o) && !node.needs.optional_output(o)) outputs[o].data = nullptr;
  }
  return node.op->backward_work(inputs, outputs, wanted);
}

void forget_corrections(Value& value) noexcept {
  value.state().readers -= static_cast<int>(value.state().corrections.size());
  value.state().corrections.clear();
}

}  // namespace

std::shared_ptr<Storage>& Tape::gradient_slot(Value& value) {
  if (!value.leaf()) return value.state().gradient;
  const auto [entry, is_new] = leaf_gradients_.try_emplace(&value);
  if (is_new) leaves_with_gradient_.push_back(value.shared_from_this());
  return entry->second;
}

void Tape::backward(const Tensor& loss, const BeforeCommit& before_commit) {
  if (joined_ != nullptr) return joined()->backward(loss, before_commit);
  Value& root = loss.value();
  if (state_ == State::Failed) throw StateError("backward: this step has failed and was rolled back");
  if (state_ == State::Backward) throw StateError("backward: it is running through this computation already");
  if (root.producer() == nullptr) {
    throw StateError(
        "backward: the computation of this loss was used up by a backward through it; to differentiate several losses "
        "of one computation, add() them first");
  }
  if (root.shape().count() != 1) throw ShapeError(concat_text("backward starts at one element, got ", root.shape()));
  const std::shared_ptr<Tape> self = shared_from_this();
  mark_reached(root);
  // A result that nobody has read yet but the user still can is computed while it can be.
  for (Node& node : nodes_) {
    if (node.waits && !node.stays) run_if_waiting(*node.outputs[0]);
  }
  fail_on_error([&] { run_backward(root, before_commit); });
  finish_backward();
}

void Tape::run_backward(Value& root, const BeforeCommit& before_commit) {
  if (save_error_) std::rethrow_exception(save_error_);
  state_ = State::Backward;
  looked_ahead_ = nodes_.size();
  if (Observer* const there = observer()) there->backward_begins(nodes_);
  root.state().gradient = make_gradient(root);
  fill(root.state().gradient->data(), 1.0, 1, root.dtype(), root.device());
  for (std::size_t i = nodes_.size(); i-- > 0;) {
    if (nodes_[i].stays) continue;
    for (const ValuePtr& output : nodes_[i].outputs) complete_gradient(*output);
    solve_inputs(nodes_[i]);
    backward_through(i);
    retire(nodes_[i]);
  }
  for (const ValuePtr& leaf : leaves_with_gradient_) complete_gradient(*leaf);
  check_marks(root.device());
  if (verifier_ != nullptr) verifier_->conclude();
  commit_gradients(before_commit);
}

void Tape::backward_through(std::size_t position) {
  Node& node = nodes_[position];
  const auto has_gradient = [](const ValuePtr& output) { return output->state().gradient != nullptr; };
  if (std::none_of(node.outputs.begin(), node.outputs.end(), has_gradient)) return;
  check_versions(node, node.needs.inputs);
  PinSet pins(*this);
  const auto need = [&](Value& value) {
    restore(value);
    pins.pin(value);
  };
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.needs.input(i)) need(*node.inputs[i]);
  }
  for (std::size_t o = 0; o < node.outputs.size(); ++o) {
    const bool kept = node.needs.optional_output(o) && node.outputs[o]->present();
    if (!node.needs.output(o) && !kept) continue;
    need(*node.outputs[o]);
    check_unchanged(*node.outputs[o]);
  }
  fetch_ahead(position);
  BackwardContext io(*this, node, pins);
  const Work work = observer() != nullptr ? backward_work(node) : Work{};  // while all that it reads is there
  run_op(
      {node, node.block.get(), RunKind::Backward}, node.inputs, [&] { node.op->backward(io); }, [&] { return work; });
  io.check_all_written();
}

void Tape::complete_gradient(Value& value) {
  auto& corrections = value.state().corrections;
  if (corrections.empty()) return;
  PinSet pins(*this);
  restore(value);
  pins.pin(value);
  std::shared_ptr<Storage>& gradient = gradient_slot(value);
  make_exclusive(gradient, value);
  for (const auto& correct : corrections) {
    correct(value.view(), {gradient->data(), value.shape(), value.dtype(), value.device()});
    --value.state().readers;
  }
  corrections.clear();
}

/// This is the last moment at which the node can be solved for a value that earlier nodes read.
void Tape::solve_inputs(Node& node) {
  const auto count = [](const std::vector<Value*>& values, const Value* value) {
    return std::count(values.begin(), values.end(), value);
  };
  for (Value* value : node.solvable) {
    // Readers that need it for this node alone.
    auto own = count(node.held, value);
    for (const ValuePtr& output : node.outputs) own += count(output->state().sources, value);
    for (const Value* other : node.solvable) own += count(other->state().sources, value);
    if (!value->present() && (value->state().readers > own || value->state().handles > 0)) restore(*value);
  }
}

void Tape::check_versions(const Node& node, std::uint64_t read) const {
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (Needs::contains(read, i) && node.inputs[i]->version() != node.input_versions[i]) {
      throw StateError(concat_text(
          "[", node.op->name(), "] input ", i, " ", node.inputs[i]->shape(),
          node.waits ? " was changed before its result was read" : " was changed between forward and backward"));
    }
  }
}

void Tape::check_unchanged(const Value& output) {
  if (output.version() == 0) return;
  throw StateError(concat_text("[", output.producer()->op->name(), "] output ", output.output(), " ", output.shape(),
                               " was changed between forward and backward"));
}

void Tape::retire(Node& node) {
  // Values that the user still holds must stay readable, and this is the last chance to restore them.
  for (const ValuePtr& output : node.outputs) {
    if (output->state().handles > 0) restore(*output);
  }
  for (const ValuePtr& output : node.outputs) {
    output->state().gradient.reset();
    forget_recipe(*output);
  }
  for (Value* value : node.solvable) forget_recipe(*value);
  for (Value* value : node.held) {
    --value->state().readers;
    drop_if_unwanted(*value);
  }
  for (const ValuePtr& output : node.outputs) drop_if_unwanted(*output);
  node.held.clear();
}

Tensor gradient_tensor(const Value& value, std::shared_ptr<Storage> gradient) {
  auto same = std::make_shared<Value>(value.shape(), value.dtype(), value.device());
  same->state().storage = std::move(gradient);
  return Tensor(std::make_shared<Handle>(std::move(same), nullptr));
}

void Tape::commit_gradients(const BeforeCommit& before_commit) {
  // Everything that can fail happens before the first gradient changes hands.
  for (const ValuePtr& leaf : leaves_with_gradient_) {
    // A gradient that the user may write to is nobody else's: add() passes one gradient on to both of its inputs.
    make_exclusive(leaf->state().gradient != nullptr ? leaf->state().gradient : leaf_gradients_[leaf.get()], *leaf);
  }
  if (before_commit) {
    std::vector<LeafGradient> found;
    for (const ValuePtr& leaf : leaves_with_gradient_) {
      std::shared_ptr<Storage>& gradient = leaf_gradients_[leaf.get()];
      make_exclusive(gradient, *leaf);
      found.push_back({leaf.get(), gradient_tensor(*leaf, gradient)});
    }
    before_commit(found);
  }
  for (const ValuePtr& leaf : leaves_with_gradient_) {
    std::shared_ptr<Storage>& gradient = leaf_gradients_[leaf.get()];
    if (leaf->state().gradient == nullptr) {
      leaf->state().gradient = std::move(gradient);
    } else {
      add_into(*leaf->state().gradient, *gradient, *leaf);
    }
  }
}

std::map<const Policy*, std::vector<const Op*>> Tape::ops_by_policy() const {
  std::map<const Policy*, std::vector<const Op*>> ops;
  for (const Node& node : nodes_) {
    if (node.policy != nullptr) ops[node.policy.get()].push_back(node.op.get());
  }
  return ops;
}

std::vector<std::string> Tape::idle_policies() const {
  std::vector<std::string> idle;
  for (const auto& [policy, used] : ops_by_policy()) {
    for (const Policy* const part : policy->parts()) {
      if (std::any_of(used.begin(), used.end(), [part](const Op* op) { return part->acts_on(*op); })) continue;
      const std::string whole = part != policy ? concat_text(" of '", policy->name(), "'") : "";
      idle.push_back(concat_text("'", part->name(), "'", whole));
    }
  }
  return idle;
}

std::vector<std::string> idle_policies(const Tensor& loss) {
  const std::shared_ptr<Tape>& tape = loss.handle()->tape;
  return tape != nullptr ? tape->joined()->idle_policies() : std::vector<std::string>();
}

std::size_t unsolvable_couplings(const Tensor& loss) {
  const std::shared_ptr<Tape>& tape = loss.handle()->tape;
  return tape != nullptr ? tape->joined()->unsolvable() : 0;
}

void Tape::fail() noexcept {
  if (joined_ != nullptr) return whole().fail();
  if (state_ == State::Failed || state_ == State::Consumed) return;
  session_->changes.undo(*this);
  finish(State::Failed);
}

void Tape::finish(State state) noexcept {
  state_ = state;
  session_->changes.settle(*this);
  leaf_gradients_.clear();
  leaves_with_gradient_.clear();
  verifier_.reset();
  on_their_way_.clear();
  session_->arenas.dissolve(*this);
  release(nodes_);
  leave_session();
}

void Tape::finish_backward() {
  session_->step_counted = false;
  const std::vector<Tape*> under_way = session_->tapes;
  for (Tape* const other : under_way) {
    if (other != this && other->first_change_ < first_change_) other->overtake();
  }
  Nodes used = nodes_.take_used();
  if (nodes_.empty()) {
    nodes_ = std::move(used);
    return finish(State::Consumed);
  }
  session_->changes.settle_but(*this, nodes_);
  leaf_gradients_.clear();
  leaves_with_gradient_.clear();
  on_their_way_.clear();
  if (verifier_ != nullptr) verifier_->forget(used);
  release(used);
  state_ = State::Recording;
  partly_used_ = true;
  in_hand_ = 0;
  for (const Node& node : nodes_) {
    for (const ValuePtr& output : node.outputs) in_hand_ += output->state().handles > 0 ? 1 : 0;
  }
}

void Tape::release(Nodes& nodes) noexcept {
  for (Node& node : nodes) {
    for (Value* value : node.held) --value->state().readers;
    for (const ValuePtr& input : node.inputs) {
      if (node.waits) --input->state().pins;
      forget_corrections(*input);
    }
  }
  for (Node& node : nodes) {
    for (const ValuePtr& output : node.outputs) {
      for (Value* source : std::exchange(output->state().sources, {})) --source->state().readers;
      output->state().gradient.reset();
      output->state().recipe.reset();
      output->state().cache.reset();
      output->state().producer = nullptr;
      if (output->state().handles == 0) output->state().storage.reset();
    }
    for (const ValuePtr& input : node.inputs) {
      // Another computation may read it, too.
      const ValueState& value = input->state();
      if (value.handles == 0 && value.readers == 0 && value.pins == 0) input->state().storage.reset();
    }
  }
  nodes.clear();
}

std::string Tape::describe_blocks() const {
  std::map<std::string, std::size_t> bytes;
  for (const Node& node : nodes_) {
    const std::string name = node.block != nullptr ? node.block->name : "outside every block";
    for (const ValuePtr& output : node.outputs) {
      if (output->present()) bytes[name] += output->bytes();
      if (output->state().gradient != nullptr) bytes[name] += output->bytes();
    }
  }
  std::vector<std::pair<std::size_t, std::string>> largest;
  for (const auto& [name, held] : bytes) {
    if (held > 0) largest.emplace_back(held, name);
  }
  std::sort(largest.rbegin(), largest.rend());
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(largest.size(), 5); ++i) {
    text +=
        concat_text(i == 0 ? "; largest blocks: " : ", ", largest[i].second, " ", format_mebibytes(largest[i].first));
  }
  for (const auto& [policy, ops] : ops_by_policy()) text += concat_text("; memory policy in force: ", policy->name());
  return text;
}

}  // namespace palimpsest
