// Ops that wait for a reader, which may do their work as a part of its own.

#include <optional>
#include <utility>

#include <palimpsest/autograd/engine/block_recording.hpp>
#include <palimpsest/autograd/engine/pins.hpp>
#include <palimpsest/autograd/engine/run_op.hpp>
#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/unread.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>

namespace palimpsest {
namespace {

/// The result of the op that waits on this thread and is not recorded.
thread_local std::weak_ptr<Value> unread_here;

std::vector<View> views_of(const std::vector<Tensor>& tensors) {
  std::vector<View> views;
  for (const Tensor& tensor : tensors) views.push_back(tensor.value().view());
  return views;
}

/// The same with a result that is absent until somebody reads it.
Tensor wait_unrecorded(std::unique_ptr<Op> op, std::span<const Tensor> inputs, const TensorSpec& spec) {
  auto waiting = std::make_shared<Unread>();
  for (const Tensor& input : inputs) {
    waiting->inputs.push_back(input.detach());
    waiting->read.push_back(input.handle()->value);
  }
  const Device device = inputs[0].device();
  const std::vector<View> views = views_of(waiting->inputs);
  std::shared_ptr<Tape> history = Tape::history_of(inputs);
  ForwardContext io(views, {}, device, history);
  fail_history_on_error(history, [&] { run_named(*op, views, [&] { op->begin(io); }); });
  waiting->op = std::move(op);
  waiting->history = history;
  waiting->block = current_block();
  auto value = std::make_shared<Value>(spec.shape, spec.dtype, device);
  value->state().unread = std::move(waiting);
  unread_here = value;
  return Tensor(std::make_shared<Handle>(std::move(value), std::move(history)));
}

/// The op that makes x, if it waits on this thread and is not recorded.
Unread* unread_of(const Tensor& x) {
  const ValuePtr here = unread_here.lock();
  return here != nullptr && here == x.handle()->value && here->state().unread->waits() ? here->state().unread.get()
                                                                                       : nullptr;
}

}  // namespace

bool Unread::waits() {
  const std::lock_guard lock(mutex);
  return op != nullptr;
}

void Unread::run(Value& result) {
  const std::lock_guard lock(mutex);
  if (op == nullptr) return;
  const std::vector<View> views = views_of(inputs);
  auto storage = std::make_shared<Storage>(result.device(), result.bytes(), Tag::Activation);
  const View to{storage->data(), result.shape(), result.dtype(), result.device()};
  std::shared_ptr<Tape> led_here = history.lock();
  ForwardContext io(views, {&to, 1}, result.device(), led_here);
  fail_history_on_error(led_here, [&] { run_named(*op, views, [&] { op->forward(io); }); });
  result.state().storage = std::move(storage);
  op.reset();
  inputs.clear();
  read.clear();
}

void run_unread() {
  if (const ValuePtr result = unread_here.lock()) result->state().unread->run(*result);
  unread_here.reset();
}

void run_unread(std::span<const Tensor> inputs) {
  run_unread();
  for (const Tensor& input : inputs) {
    if (input && input.value().state().unread != nullptr) input.value().state().unread->run(input.value());
  }
}

void try_to_run_unread() noexcept {
  try {
    run_unread();
  } catch (...) {
  }
}

Tensor apply_when_read(std::unique_ptr<Op> op, std::vector<Tensor> inputs) {
  const std::vector<TensorSpec> specs = check_inputs(*op, inputs);
  if (specs.size() != 1 || op->solvable_input() >= 0) {
    throw StateError(concat_text("[", op->name(), "] is to wait for a reader, which takes one output and no coupling"));
  }
  run_unread(inputs);
  if (!is_recorded(inputs)) return wait_unrecorded(std::move(op), inputs, specs.front());
  const std::shared_ptr<Tape> tape = Tape::for_op(*op, inputs);
  return tape->apply_when_read(std::move(op), std::move(inputs), specs.front());
}

const Op* unrun_op(const Tensor& x) {
  if (const Unread* const unread = unread_of(x)) return unread->op.get();
  const Node* const maker = x.value().producer();
  return maker != nullptr && maker->waits ? maker->op.get() : nullptr;
}

std::vector<ValuePtr> unrun_inputs(const Tensor& x) {
  if (const Unread* const unread = unread_of(x)) return unread->read;
  const Node* const maker = x.value().producer();
  return maker != nullptr && maker->waits ? maker->inputs : std::vector<ValuePtr>();
}

std::optional<Unrun<Op>> take_unrun_op(Tensor& x) {
  const ValueState& value = x.value().state();
  const bool sole = x.handle().use_count() == 1 && value.handles == 1;
  if (Unread* const unread = unread_of(x)) {
    if (!sole || unread->block != current_block()) return std::nullopt;
    Unrun<Op> taken{std::move(unread->op), std::move(unread->inputs), unread->history.lock()};
    for (Tensor& input : taken.inputs) input = with_history(std::move(input), taken.tape);
    x = {};
    return taken;
  }
  if (value.producer == nullptr || !value.producer->waits || !sole || !grad_enabled()) return std::nullopt;
  if (value.producer->block != current_block()) return std::nullopt;
  return x.handle()->tape->joined()->take_unrun(x);
}

Tensor Tape::apply_when_read(std::unique_ptr<Op> op, std::vector<Tensor> inputs, const TensorSpec& spec) {
  const std::vector<Tensor> results{make_result(spec, inputs[0].device())};
  fail_on_error([&] {
    Node& node = add_node(std::move(op), inputs, results);
    {
      PinSet pins(*this);
      read_inputs(node, pins);
      for (const ValuePtr& input : node.inputs) ++input->state().pins;
      node.waits = true;
    }
    const std::vector<View> views = views_of(node.inputs);
    ForwardContext io(views, {}, inputs[0].device(), this, node.inputs);
    run_op(
        {node, node.block.get(), RunKind::Forward}, views, [&] { node.op->begin(io); }, [&] { return io.work(); });
  });
  return results.front();
}

std::optional<Unrun<Op>> Tape::take_unrun(Tensor& x) {
  Node& node = *x.value().state().producer;
  if (node.index + 1 != session_->next_index) return std::nullopt;
  fail_on_error([&] { check_versions(node, all_bits); });
  Unrun<Op> taken{std::move(node.op), {}, shared_from_this()};
  for (const ValuePtr& input : node.inputs) {
    taken.inputs.emplace_back(std::make_shared<Handle>(input, input->leaf() ? nullptr : taken.tape));
  }
  undo_waiting(node);
  session_->taken_from = taken.tape;
  x = {};
  return taken;
}

void Tape::undo_waiting(Node& node) noexcept {
  let_inputs_go(node);
  if (node.outputs[0]->state().handles > 0) --in_hand_;
  node.outputs[0]->state().producer = nullptr;
  node.inputs.clear();
  node.outputs.clear();
  // The place of a node of another block may already count there.
  if (node.index + 1 != session_->next_index || node.block != current_block()) return;
  session_->next_index = node.index;
  if (node.policy != nullptr) session_->next_place = node.place;
  if (node.begins) outermost_recording()->begun = false;
  nodes_.pop_back();
}

void Tape::let_inputs_go(Node& node) noexcept {
  node.waits = false;
  for (const ValuePtr& input : node.inputs) {
    --input->state().pins;
    drop_if_unwanted(*input);
  }
}

void Tape::run_if_waiting(Value& value) {
  Node* const node = value.state().producer;
  if (node == nullptr || !node->waits) return;
  fail_on_error([&] {
    if (save_error_) std::rethrow_exception(save_error_);
    check_versions(*node, all_bits);
    PinSet pins(*this);
    for (const ValuePtr& input : node->inputs) pins.pin(*input);
    let_inputs_go(*node);
    run_first(*node, {});
  });
}

}  // namespace palimpsest
