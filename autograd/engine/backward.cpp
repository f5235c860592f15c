// Backward: nodes in reverse order, values restored as they are needed and let go as soon as nobody will read them.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>

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

std::shared_ptr<Storage> make_gradient(const Value& value) {
  auto gradient = std::make_shared<Storage>(value.device(), value.bytes(), Tag::Gradient);
  if (Observer* const there = observer()) there->gradient_placed(value, gradient->data());
  return gradient;
}

void add_into(const Buffer& to, const Buffer& from, const Value& value) {
  accumulate(to.data(), from.data(), value.shape().count(), value.dtype(), value.device());
}

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

/// A gradient that others share is copied before it is added to.
void make_exclusive(std::shared_ptr<Storage>& gradient, const Value& value) {
  if (gradient.use_count() == 1) return;
  auto copy = make_gradient(value);
  copy_bytes(copy->data(), value.device(), gradient->data(), value.device(), value.bytes());
  gradient = std::move(copy);
}

void forget_corrections(Value& value) noexcept {
  value.state().readers -= static_cast<int>(value.state().corrections.size());
  value.state().corrections.clear();
}

/// Throws StateError unless the op has such an input or output.
void check_place(const Node& node, const char* what, std::size_t i, std::size_t count) {
  if (i < count) return;
  throw StateError(concat_text("[", node.op->name(), "] backward asks for ", what, ' ', i, ", it has ", count));
}

/// A number that is none and that no arithmetic makes: quiet, with bits of its own behind.
template <class Bits>
constexpr Bits mark_of = sizeof(Bits) == 4 ? Bits{0x7FE5C3D1} : static_cast<Bits>(0x7FFC5A5A3C3CD1D1);

/// Calls visit(bits of the first and of the last element, their mark).
template <class Visit>
void at_both_ends(const Buffer& gradient, const Value& value, const Visit& visit) {
  const auto at = [&]<class Bits>(Bits mark) {
    auto* const bytes = static_cast<std::byte*>(gradient.data());
    for (std::byte* const element : {bytes, bytes + value.bytes() - sizeof(Bits)}) visit(element, mark);
  };
  value.dtype() == Dtype::Float64 ? at(mark_of<std::uint64_t>) : at(mark_of<std::uint32_t>);
}

/// On another device than the CPU looking at two elements would wait for all work.
bool takes_marks(const Value& value) { return value.device() == Device::Cpu && value.shape().count() > 0; }

void put_marks(const Buffer& gradient, const Value& value) {
  at_both_ends(gradient, value, [](std::byte* element, auto mark) { std::memcpy(element, &mark, sizeof mark); });
}

bool has_mark(const Buffer& gradient, const Value& value) {
  bool found = false;
  at_both_ends(gradient, value, [&](const std::byte* element, auto mark) {
    found = found || std::memcmp(element, &mark, sizeof mark) == 0;
  });
  return found;
}

}  // namespace

View BackwardContext::grad_output(std::size_t o) const {
  check_place(node_, "output", o, node_.outputs.size());
  const Value& value = *node_.outputs[o];
  return {value.state().gradient ? value.state().gradient->data() : nullptr, value.shape(), value.dtype(),
          value.device()};
}

BackwardContext::BackwardContext(Tape& tape, Node& node, PinSet& pins)
    : tape_(tape),
      node_(node),
      pins_(pins),
      written_(node.inputs.size()),
      marked_(node.inputs.size()),
      done_(node.inputs.size()) {}

View BackwardContext::input(std::size_t i) const {
  check_place(node_, "input", i, node_.inputs.size());
  if (!node_.needs.input(i)) {
    throw StateError(concat_text("[", node_.op->name(), "] backward reads input ", i, " ", node_.inputs[i]->shape(),
                                 ", which its needs() does not name"));
  }
  if (done_[i]) throw StateError(concat_text("[", node_.op->name(), "] backward was done with input ", i));
  return node_.inputs[i]->view();
}

View BackwardContext::output(std::size_t o) const {
  check_place(node_, "output", o, node_.outputs.size());
  if (!node_.needs.output(o) && !node_.needs.optional_output(o)) {
    throw StateError(concat_text("[", node_.op->name(), "] backward reads output ", o, " ", node_.outputs[o]->shape(),
                                 ", which its needs() does not name"));
  }
  return node_.outputs[o]->view();
}

void BackwardContext::check_all_written() const {
  for (std::size_t i = 0; i < written_.size(); ++i) {
    if (!wants(i)) continue;
    const Value& value = *node_.inputs[i];
    const bool written = written_[i] && !(marked_[i] && has_mark(*tape_.gradient_slot(*node_.inputs[i]), value));
    if (written) continue;
    throw StateError(concat_text("[", node_.op->name(), "] backward has not written the gradient of input ", i, " ",
                                 value.shape(), ", which wants one"));
  }
}

void BackwardContext::check_wanted(std::size_t i) const {
  if (wants(i)) return;
  throw StateError(concat_text("[", node_.op->name(), "] backward writes the gradient of input ", i, " ",
                               node_.inputs[i]->shape(), ", which wants none: wants() says so"));
}

Device BackwardContext::device() const { return node_.outputs[0]->device(); }
bool BackwardContext::wants(std::size_t i) const {
  check_place(node_, "input", i, node_.inputs.size());
  return node_.inputs[i]->requires_grad();
}
std::size_t BackwardContext::input_count() const { return node_.inputs.size(); }
const Shape& BackwardContext::input_shape(std::size_t i) const {
  check_place(node_, "input", i, node_.inputs.size());
  return node_.inputs[i]->shape();
}

void BackwardContext::done_with_input(std::size_t i) {
  input(i);
  Value& value = *node_.inputs[i];
  done_[i] = true;
  node_.held.erase(std::find(node_.held.begin(), node_.held.end(), &value));
  --value.state().readers;
  pins_.unpin(value);
}

void BackwardContext::on_complete(std::size_t i, std::function<void(const View&, const View&)> correct) {
  check_wanted(i);
  ValueState& value = node_.inputs[i]->state();
  value.corrections.push_back(std::move(correct));
  ++value.readers;
}

GradientTarget BackwardContext::grad_input(std::size_t i) {
  check_wanted(i);
  written_[i] = true;
  const Value& value = *node_.inputs[i];
  std::shared_ptr<Storage>& gradient = tape_.gradient_slot(*node_.inputs[i]);
  const bool accumulate = gradient != nullptr;
  if (accumulate) {
    make_exclusive(gradient, value);
  } else {
    gradient = make_gradient(value);
    marked_[i] = takes_marks(value);
    if (marked_[i]) put_marks(*gradient, value);
  }
  return {{gradient->data(), value.shape(), value.dtype(), value.device()}, accumulate};
}

GradientTarget BackwardContext::grad_input_over(std::size_t i, std::size_t o) {
  check_wanted(i);
  check_place(node_, "output", o, node_.outputs.size());
  const Value& value = *node_.inputs[i];
  std::shared_ptr<Storage>& gradient = tape_.gradient_slot(*node_.inputs[i]);
  std::shared_ptr<Storage>& source = node_.outputs[o]->state().gradient;
  const bool can_be_had = source != nullptr && source.use_count() == 1 && source->bytes() == value.bytes();
  if (gradient != nullptr || !can_be_had) return grad_input(i);
  gradient = std::move(source);
  written_[i] = true;
  return {{gradient->data(), value.shape(), value.dtype(), value.device()}, false};
}

void BackwardContext::pass_through(std::size_t i, std::size_t o) {
  check_wanted(i);
  check_place(node_, "output", o, node_.outputs.size());
  const Value& value = *node_.inputs[i];
  const Value& output = *node_.outputs[o];
  if (output.shape().count() != value.shape().count() || output.dtype() != value.dtype()) {
    throw StateError(concat_text("[", node_.op->name(), "] backward passes the gradient of output ", o, ' ',
                                 output.shape(), " to input ", i, ' ', value.shape()));
  }
  const std::shared_ptr<Storage>& source = output.state().gradient;
  if (source == nullptr) {
    throw StateError(concat_text("[", node_.op->name(), "] backward passes the gradient of output ", o,
                                 " on, into which nothing has flowed: grad_output() is null there"));
  }
  written_[i] = true;
  std::shared_ptr<Storage>& gradient = tape_.gradient_slot(*node_.inputs[i]);
  if (gradient == nullptr) {
    gradient = source;
    return;
  }
  make_exclusive(gradient, value);
  add_into(*gradient, *source, value);
}

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
