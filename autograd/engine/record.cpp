// Recording: running an op for the first time.

#include <algorithm>
#include <atomic>
#include <exception>
#include <unordered_set>
#include <utility>

#include <palimpsest/autograd/engine/block_recording.hpp>
#include <palimpsest/autograd/engine/pins.hpp>
#include <palimpsest/autograd/engine/run_op.hpp>
#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>
#include <palimpsest/autograd/engine/verifier.hpp>
#include <palimpsest/autograd/kept_streams.hpp>

namespace palimpsest {
namespace {

thread_local bool recording_enabled = true;
thread_local std::weak_ptr<Tape> last_recorded;
thread_local const Tape* last_tape = nullptr;  // the same one, for as long as it is there
thread_local BlockRecording* current_recording = nullptr;

std::atomic<std::uint64_t> model_calls = 0;

/// Absent values that a lease may walk over.
constexpr std::size_t most_looked_at = 64;

/// Runs an op that nobody will differentiate.
std::vector<Tensor> run_unrecorded(Op& op, std::span<const Tensor> inputs, const std::vector<TensorSpec>& specs) {
  const Device device = inputs.empty() ? Device::Cpu : inputs[0].device();
  // Restoring one input may evict another from its arena: detached, each holds on to its bytes.
  std::vector<Tensor> held;
  std::vector<View> views;
  for (const Tensor& input : inputs) views.push_back(held.emplace_back(input.detach()).value().view());
  const Needs needs = op.needs();
  std::vector<Tensor> outputs;
  std::vector<View> output_views;
  for (std::size_t o = 0; o < specs.size(); ++o) {
    const TensorSpec& spec = specs[o];
    outputs.push_back(needs.optional_output(o) ? Tensor() : Tensor::empty(spec.shape, spec.dtype, device));
    output_views.push_back(outputs.back() ? outputs.back().value().view()
                                          : View{nullptr, spec.shape, spec.dtype, device});
  }
  std::shared_ptr<Tape> history = Tape::history_of(inputs);
  ForwardContext io(views, output_views, device, history);
  fail_history_on_error(history, [&] {
    run_named(op, views, [&] {
      op.begin(io);
      op.forward(io);
    });
  });
  for (Tensor& output : outputs) output = with_history(std::move(output), history);
  return outputs;
}

/// The results of an op on these inputs. Throws what check_inputs() does.
std::vector<TensorSpec> specs_of(const Op& op, std::span<const Tensor> inputs) {
  std::vector<TensorSpec> input_specs;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i]) throw ValueError(concat_text("[", op.name(), "] input ", i, " is an empty tensor"));
    if (inputs[i].device() != inputs[0].device()) {
      throw DeviceError(concat_text("[", op.name(), "] input ", i, " is on ", inputs[i].device(), ", expected ",
                                    inputs[0].device(), " like input 0"));
    }
    input_specs.push_back({inputs[i].shape(), inputs[i].dtype()});
  }
  std::vector<TensorSpec> specs = op.infer(input_specs);
  if (specs.empty()) throw ValueError(concat_text("[", op.name(), "] infer() names no output"));
  return specs;
}

}  // namespace

BlockRecording* recording_of_block() {
  BlockRecording* recording = current_recording;
  while (recording != nullptr && recording->block == nullptr) recording = recording->outer;
  return recording;
}

std::shared_ptr<const BlockInfo> current_block() {
  const BlockRecording* const recording = recording_of_block();
  return recording != nullptr ? recording->block : nullptr;
}

BlockRecording* outermost_recording() {
  BlockRecording* recording = current_recording;
  while (recording != nullptr && recording->outer != nullptr) recording = recording->outer;
  return recording;
}

bool is_recorded(std::span<const Tensor> inputs) {
  const auto requires_grad = [](const Tensor& input) { return input.value().requires_grad(); };
  return recording_enabled && std::any_of(inputs.begin(), inputs.end(), requires_grad);
}

NoGrad::NoGrad() : before_(recording_enabled) { recording_enabled = false; }
NoGrad::~NoGrad() {
  try_to_run_unread();
  recording_enabled = before_;
}
bool grad_enabled() { return recording_enabled; }

BlockScope::BlockScope(std::shared_ptr<const BlockInfo> block, std::span<const Tensor> inputs)
    : recording_(std::make_unique<BlockRecording>(
          BlockRecording{std::move(block), current_recording, recording_enabled, std::uncaught_exceptions()})) {
  if (recording_->outer != nullptr) recording_->call = recording_->outer->call;
  if (recording_->call == 0 && recording_->is_model()) recording_->call = ++model_calls;
  if (recording_->block != nullptr) run_unread();
  std::vector<Tensor> recorded;
  for (const Tensor& input : inputs) {
    if (recording_enabled && input && input.value().producer() != nullptr) recorded.push_back(input);
  }
  for (const Tensor& input : recorded) recording_->take(input.handle()->tape->joined());
  for (const Tensor& input : inputs) {
    if (!input) continue;
    if (const std::shared_ptr<Tape> history = Tape::history_of({&input, 1})) recording_->take(history);
  }
  if (const std::shared_ptr<Session> session = Session::current()) {
    recording_->branch_start = recording_->first_node = session->next_index;
  }
  if (recording_->block != nullptr) {
    // The policy of a block decides about the values that enter it: they must be there.
    for (const Tensor& input : recorded) input.handle()->tape->joined()->run_if_waiting(input.value());
    for (const Tensor& input : recorded) input.handle()->tape->joined()->enter(*recording_, input);
  }
  current_recording = recording_.get();
}

BlockScope::~BlockScope() {
  try_to_run_unread();
  current_recording = recording_->outer;
  if (!recording_->recording || std::uncaught_exceptions() <= recording_->exceptions) return;
  for (const std::shared_ptr<Tape>& tape : recording_->tapes) tape->fail();
}

void BlockRecording::take(const std::shared_ptr<Tape>& tape) {
  if (!tapes.empty() && tapes.back() == tape) return;
  // Those that are over or have joined it would be held for nothing.
  std::erase_if(tapes,
                [&](const auto& other) { return other->joined() == tape || other->state() != Tape::State::Recording; });
  tapes.push_back(tape);
}

void Tape::enter(const BlockRecording& recording, const Tensor& input) {
  const BlockInfo& block = *recording.block;
  Value& value = input.value();
  if (block.policy == nullptr || value.producer() == nullptr) return;
  fail_on_error([&] {
    std::optional<RecipePtr> recipe = block.policy->reconsider(value, {Offer::Kind::EntersBlock, nullptr}, block);
    if (recipe && *recipe == nullptr) recipe = recipe_around(recording, value);
    if (recipe && *recipe == nullptr) restore(value);  // what has lost its bytes could not be kept
    if (recipe) accept(value, std::move(*recipe));
  });
}

std::vector<TensorSpec> check_inputs(const Op& op, std::span<const Tensor> inputs) {
  try {
    return specs_of(op, inputs);
  } catch (...) {
    for (const Tensor& input : inputs) {
      if (input && input.handle()->tape != nullptr) input.handle()->tape->interrupt();
    }
    throw;
  }
}

std::vector<Tensor> apply(std::unique_ptr<Op> op, std::vector<Tensor> inputs) {
  const std::vector<TensorSpec> specs = check_inputs(*op, inputs);
  run_unread(inputs);
  if (!is_recorded(inputs)) return run_unrecorded(*op, inputs, specs);

  const std::shared_ptr<Tape> tape = Tape::for_op(*op, inputs);
  return tape->apply(std::move(op), std::move(inputs), specs);
}

std::vector<Tensor> Tape::apply(std::unique_ptr<Op> op, std::vector<Tensor> inputs,
                                const std::vector<TensorSpec>& specs) {
  std::vector<Tensor> results;
  for (const TensorSpec& spec : specs) results.push_back(make_result(spec, inputs[0].device()));
  fail_on_error([&] {
    PinSet pins(*this);
    Node& node = add_node(std::move(op), inputs, results);
    read_inputs(node, pins);
    run_first(node, inputs);
  });
  return results;
}

void Tape::fail_on_error(const std::function<void()>& run) {
  try {
    run();
  } catch (const KeptStreamsOutOfMemory&) {
    fail();
    throw;
  } catch (const OutOfMemory& error) {
    const std::string text = error.what() + describe_blocks();
    const std::size_t kept = unsolvable_bytes_;
    fail();
    if (kept == 0) throw OutOfMemory(text);
    throw KeptStreamsOutOfMemory(
        concat_text(text, "; ", format_mebibytes(kept), " are streams that cannot be solved for, and are kept"), kept);
  } catch (...) {
    fail();
    throw;
  }
}

Tensor Tape::make_result(const TensorSpec& spec, Device device) {
  auto value = std::make_shared<Value>(spec.shape, spec.dtype, device);
  value->state().tape = this;
  value->state().requires_grad = spec.dtype != Dtype::Int32;
  return Tensor(std::make_shared<Handle>(std::move(value), shared_from_this()));
}

Tensor apply_single(std::unique_ptr<Op> op, std::vector<Tensor> inputs) {
  return std::move(apply(std::move(op), std::move(inputs)).front());
}

std::shared_ptr<Tape> Tape::current() {
  const std::shared_ptr<Tape> tape = last_recorded.lock();
  return tape != nullptr && tape->state() == State::Recording ? tape->joined() : nullptr;
}

void Tape::note_call() {
  const std::uint64_t call = current_recording != nullptr ? current_recording->call : 0;
  if (call != 0 && (calls_.empty() || calls_.back() != call)) calls_.push_back(call);
}

Node& Tape::add_node(std::unique_ptr<Op> op, std::span<const Tensor> inputs, std::span<const Tensor> outputs) {
  if (save_error_) std::rethrow_exception(save_error_);
  // Most ops are recorded where the one before was.
  if (std::exchange(last_tape, this) != this || last_recorded.expired()) last_recorded = weak_from_this();
  for (BlockRecording* block = current_recording; block != nullptr; block = block->outer) {
    if (block->tapes.empty() || block->tapes.back().get() != this) block->take(shared_from_this());
  }
  note_call();
  Node& node = nodes_.add();
  node.op = std::move(op);
  node.index = session_->next_index++;
  BlockRecording* const outermost = outermost_recording();
  node.begins = outermost != nullptr && !std::exchange(outermost->begun, true);
  node.needs = node.op->needs();
  node.block = current_block();
  const BlockRecording* const deciding = current_recording != nullptr ? current_recording->with_policy() : nullptr;
  node.policy = deciding != nullptr ? deciding->block->policy : nullptr;
  node.place = node.policy != nullptr ? session_->next_place : no_place;
  if (node.place != no_place) ++session_->next_place;
  node.depth = deciding != nullptr ? deciding->depth() : 0;
  node.blocks = deciding != nullptr ? deciding->blocks() : 0;
  for (const Tensor& input : inputs) node.inputs.push_back(input.handle()->value);
  for (const Tensor& output : outputs) {
    output.value().state().producer = &node;
    output.value().state().output = node.outputs.size();
    output.value().state().depth = node.depth;
    node.outputs.push_back(output.handle()->value);
  }
  return node;
}

void Tape::read_inputs(Node& node, PinSet& pins) {
  for (const ValuePtr& input : node.inputs) {
    restore(*input);
    pins.pin(*input);
    node.input_versions.push_back(input->version());
  }
}

void Tape::run_first(Node& node, std::span<const Tensor> inputs) {
  const bool waited = inputs.empty();
  find_place(node);
  PinSet pins(*this);
  const std::vector<View> input_views = views_of(node.inputs);
  std::vector<View> output_views;
  std::optional<RecipePtr> for_stream = ask_about_stream(node);
  RangeMark* const mark = for_stream && *for_stream != nullptr ? mark_for(node) : nullptr;
  Work work;
  const auto run = [&] {
    for (std::size_t o = 0; o < node.outputs.size(); ++o) output_views.push_back(place_output(node, inputs, o, pins));
    ForwardContext io(input_views, output_views, node.outputs[0]->device(), this, node.inputs, mark);
    if (!waited) node.op->begin(io);
    node.op->forward(io);
    work = io.work();
    note_readers(node);
    make_offers(node, std::move(for_stream));  // its releases are the op's
  };
  run_op({node, node.block.get(), RunKind::Forward}, input_views, run, [&] {
    work += node.op->forward_work(input_views, output_views);
    return work;
  });
}

void Tape::find_place(Node& node) {
  if (node.policy == nullptr) return;
  const std::size_t place = node.policy->place(*node.op, node.place, node.begins);
  if (place == no_place) {  // what goes on instead of a plan counts all blocks
    node.depth = std::max(node.blocks - 1, 0);
    for (const ValuePtr& output : node.outputs) output->state().depth = node.depth;
  }
  if (place == node.place) return;
  node.place = place;
  if (node.index + 1 == session_->next_index) session_->next_place = place == no_place ? no_place : place + 1;
}

View Tape::place_output(Node& node, std::span<const Tensor> inputs, std::size_t o, PinSet& pins) {
  Value& output = *node.outputs[o];
  if (node.policy != nullptr && node.needs.optional_output(o)) {
    if (!node.policy->keeps_optional(output, *node.op, *node.block)) return output.view();
  } else if (node.policy != nullptr) {
    RecipePtr recipe = node.policy->decide(output, *node.op, *node.block);
    const bool replays = recipe != nullptr && recipe->via(output) == &node;
    const bool in_vain = replays && !is_planned(node) && frees_nothing(node, inputs, output);
    if (!in_vain) adopt(output, std::move(recipe));
  }
  if (!take_over_input(node, inputs, output)) make_memory(output);
  pins.pin(output);
  return output.view();
}

bool Tape::take_over_input(Node& node, std::span<const Tensor> inputs, Value& output) {
  const int overwritable = node.op->overwritable_input();
  if (overwritable < 0 || inputs.empty() ||
      !may_overwrite(node, inputs[static_cast<std::size_t>(overwritable)], output))
    return false;
  Value& input = inputs[static_cast<std::size_t>(overwritable)].value();
  if (input.readers() > 0 || node.needs.input(static_cast<std::size_t>(overwritable))) {
    save(input);
  } else if (verifier_ != nullptr) {
    verifier_->leaves(input);  // an offer may still let it be restored
  }
  if (input.state().storage.use_count() > 1) return false;  // its recipe is still moving the bytes
  arenas().transfer(input, output);
  output.state().storage->version = 0;  // of these bytes the op makes new ones
  observe_placed(output);
  return true;
}

bool Tape::is_sole(const Tensor& input) const {
  const ValueState& value = input.value().state();
  // The one handle is the caller's argument, moved to us; the one pin is the recording's own.
  return value.tape == this && input.handle().use_count() == 1 && value.handles == 1 && value.pins == 1 &&
         value.storage.use_count() == 1;
}

bool Tape::may_overwrite(const Node& node, const Tensor& input, const Value& output) const {
  const Value& value = input.value();
  const bool read_again =
      value.state().readers > 0 || node.op->needs().input(static_cast<std::size_t>(node.op->overwritable_input()));
  const int arena = output.state().recipe != nullptr ? output.state().recipe->arena() : -1;
  return is_sole(input) && (value.state().recipe != nullptr || !read_again) && value.state().arena == arena &&
         value.bytes() == output.bytes() && value.dtype() == output.dtype();
}

void Tape::note_readers(Node& node) {
  const auto hold = [&](Value& value) {
    ++value.state().readers;
    node.held.push_back(&value);
  };
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.needs.input(i)) hold(*node.inputs[i]);
  }
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    const bool kept = node.needs.optional_output(i) && node.outputs[i]->present();
    if (node.needs.output(i) || kept) hold(*node.outputs[i]);
  }
}

bool Tape::may_be_evicted(const Value& tenant) const {
  if (tenant.state().pins > 0) return false;
  if (state_ != State::Recording || tenant.state().handles == 0) return true;
  // A value that the user holds is about to be read. It stays if that would take running a heavy op again, which
  // backward is to do for the first time, and if a heavy op may be on a way too long to be looked at for every lease.
  std::vector<const Value*> pending(tenant.state().sources.begin(), tenant.state().sources.end());
  std::unordered_set<const Value*> visited;
  while (!pending.empty()) {
    const Value& source = *pending.back();
    pending.pop_back();
    if (source.present() || source.state().light || !visited.insert(&source).second) continue;
    if (source.producer()->op->cost() == Cost::Heavy || visited.size() > most_looked_at) return false;
    pending.insert(pending.end(), source.state().sources.begin(), source.state().sources.end());
  }
  return true;
}

void Tape::make_memory(Value& value) {
  const int arena = value.state().recipe != nullptr ? value.state().recipe->arena() : -1;
  if (arena >= 0) {
    arenas().lease(
        value, arena, [](const Value& tenant) { return tenant.state().tape->may_be_evicted(tenant); },
        [](Value& tenant) { tenant.state().tape->save(tenant); });
  } else {
    value.state().storage = std::make_shared<Storage>(value.device(), value.bytes(), Tag::Activation);
  }
  observe_placed(value);
}

std::shared_ptr<ValueCache>* ForwardContext::cache(std::size_t i) const {
  if (values_.empty() || values_[i]->leaf()) return nullptr;
  ValueState& value = values_[i]->state();
  if (value.cache_version != values_[i]->version()) value.cache = nullptr;
  value.cache_version = values_[i]->version();
  return &value.cache;
}

void ForwardContext::on_failure(std::function<void()> undo, std::function<void()> redo) const {
  if (tape_ != nullptr) return tape_->on_failure(tape_->nodes().back().index, std::move(undo), std::move(redo));
  if (history_ == nullptr) return;  // a replay, which should have changed nothing: verification will say so
  const std::shared_ptr<Session> session = Session::current();
  if (!recording_enabled) {
    if (session != nullptr) session->changes.add_final(session->next_index, std::move(undo), std::move(redo));
    return;
  }
  if (*history_ == nullptr) *history_ = std::make_shared<Tape>(Session::current_or_new());
  for (BlockRecording* block = current_recording; block != nullptr; block = block->outer) block->take(*history_);
  (*history_)->on_unrecorded_failure(std::move(undo), std::move(redo));
}

}  // namespace palimpsest
