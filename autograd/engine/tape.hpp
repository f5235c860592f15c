#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <palimpsest/autograd/engine/session.hpp>
#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

class PinSet;
class Verifier;
struct BlockRecording;

using BeforeCommit = std::function<void(std::span<const LeafGradient>)>;

/// A gradient of this value as a tensor.
Tensor gradient_tensor(const Value& value, std::shared_ptr<Storage> gradient);

/// A recorded computation: nodes that depend on each other, in the order in which they ran. Made when an op is recorded
/// that reads leaves alone; joined with others by an op that reads results of several; what a backward went through is
/// used up; gone with the last tensor that refers to it. Nothing here recurses over the graph.
class Tape : public std::enable_shared_from_this<Tape> {
 public:
  /// Joined: another tape has all that this one had, and does what this one is asked for.
  enum class State { Recording, Backward, Consumed, Failed, Joined };

  explicit Tape(std::shared_ptr<Session> session);
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// The tape of the op that this thread has recorded last; null if that is over.
  static std::shared_ptr<Tape> current();

  State state() const { return whole().state_; }
  const Nodes& nodes() const { return whole().nodes_; }
  const Arenas& arenas() const { return session_->arenas; }
  /// Forward runs of heavy ops that restoring has cost so far.
  std::size_t heavy_replays() const { return heavy_replays_; }
  /// Values that a policy would have solved for, and whose couplings do not allow it (Op::can_solve).
  std::size_t unsolvable() const { return unsolvable_; }
  /// See idle_policies().
  std::vector<std::string> idle_policies() const;

  /// Makes an absent value of this computation present. Throws StateError if nothing can bring it back. Strong
  /// guarantee, but for a value whose op has not run yet (apply_when_read): if that fails, the step has failed.
  void restore(Value& target);

  /// `before_commit`: see Tensor::backward().
  void backward(const Tensor& loss, const BeforeCommit& before_commit);

  /// The step has failed: undoes what its forward changed (running statistics, random counters), drops every byte that
  /// no user's tensor holds, and refuses all further use. Parameters, committed gradients and optimisers were not
  /// touched. State that a broken device does not let it undo is lost with the device.
  void fail() noexcept;

  /// An exception has passed over part of the computation. If it goes without a backward, it has failed.
  void interrupt() noexcept { whole().interrupted_ = true; }

  /// Registers how to undo a change of state that the op with this index has made, if the step fails, and how to make
  /// it again (StateLog::add).
  void on_failure(std::size_t index, std::function<void()> undo, std::function<void()> redo);
  /// The same for an op that is not recorded, although gradients are wanted. Its results refer to the tape.
  void on_unrecorded_failure(std::function<void()> undo, std::function<void()> redo);

  // For the functions and contexts that contracts declare.

  /// The tape for an op on these inputs: a new one, that of its inputs, or all of theirs joined. Throws StateError if
  /// one of them was made by a computation that is used up or has failed.
  static std::shared_ptr<Tape> for_op(const Op& op, std::span<const Tensor> inputs);
  /// The tape, without ops, that has what ops which are not recorded have changed on the way to these inputs; the one
  /// that reads their results takes it over. Null for none, and under NoGrad, where changes are final.
  static std::shared_ptr<Tape> history_of(std::span<const Tensor> inputs);
  /// Runs an op for the first time and records it. `specs`: what Op::infer says.
  std::vector<Tensor> apply(std::unique_ptr<Op> op, std::vector<Tensor> inputs, const std::vector<TensorSpec>& specs);
  Tensor apply_when_read(std::unique_ptr<Op> op, std::vector<Tensor> inputs, const TensorSpec& spec);
  std::optional<Unrun<Op>> take_unrun(Tensor& x);
  /// Runs the producer of a value, if it waits.
  void run_if_waiting(Value& value);
  /// Asks a block's policy about a tensor that enters the block.
  void enter(const BlockRecording& recording, const Tensor& input);
  /// The tape with the computation of this one, which is another if it has joined one.
  std::shared_ptr<Tape> joined();

  Arenas& arenas() { return session_->arenas; }
  void make_memory(Value& value);
  /// Gives `to` the memory of `from`, which is restored by its recipe if somebody will read it.
  void take_over(Value& from, Value& to);
  /// Drops the bytes if they come back for those who will read them; if nobody will, what they would come back from
  /// goes, too. The recipe is kept: a value that is offered another recipe may still read this one.
  void drop_if_unwanted(Value& value) noexcept;
  /// A value has the user's first tensor, once more if it had one before.
  void hold(Value& value) noexcept;
  /// The user's last tensor of a value has gone.
  void let_go(Value& value) noexcept;
  /// The place in which a value's gradient is collected.
  std::shared_ptr<Storage>& gradient_slot(Value& value);
  void count_heavy_replay() { ++heavy_replays_; }

 private:
  Tape& whole();
  const Tape& whole() const { return const_cast<Tape*>(this)->whole(); }
  /// Takes over all that another tape has.
  void absorb(Tape& other);
  /// Takes over what another tape has changed.
  void take_changes(Tape& other) noexcept;
  /// The same of the histories of an op's inputs, which are over then.
  void take_histories(std::span<const Tensor> inputs) noexcept;
  /// One more than the index of the op recorded last; 0 for none.
  std::size_t end() const { return nodes_.empty() ? 0 : nodes_.back().index + 1; }
  /// The computation goes without a backward.
  void abandon() noexcept;
  /// Notes the call of a model in which something is being recorded.
  void note_call();
  /// True if another computation is of the same call of a model, or if this one is of none.
  bool belongs_with(const Tape& other) const;
  /// A later computation has been used up: after many of them what this one has changed stays for good.
  void overtake() noexcept;
  void leave_session() noexcept { std::erase(session_->tapes, this); }
  /// A value that an op recorded here is to make.
  Tensor make_result(const TensorSpec& spec, Device device);
  Node& add_node(std::unique_ptr<Op> op, std::span<const Tensor> inputs, std::span<const Tensor> outputs);
  /// Makes the inputs of a new node present, pins them and notes which versions of them it reads.
  void read_inputs(Node& node, PinSet& pins);
  /// Runs a node for the first time and decides how its outputs reach backward. `inputs` has the caller's tensors,
  /// whose memory may be taken over, and is empty for a node that has waited.
  void run_first(Node& node, std::span<const Tensor> inputs);
  /// The node will not run.
  void undo_waiting(Node& node) noexcept;
  void let_inputs_go(Node& node) noexcept;
  /// Runs a part of the step; what it throws fails the step.
  void fail_on_error(const std::function<void()>& run);
  /// Asks the node's policy for its place.
  void find_place(Node& node);
  /// Makes memory for an output that is to exist.
  View place_output(Node& node, std::span<const Tensor> inputs, std::size_t output, PinSet& pins);
  /// Lets an output have the memory of the input that it may overwrite. Returns whether it does.
  bool take_over_input(Node& node, std::span<const Tensor> inputs, Value& output);
  bool may_overwrite(const Node& node, const Tensor& input, const Value& output) const;
  /// True if nobody but the op that is being recorded has this input in hand: the caller has moved it in.
  bool is_sole(const Tensor& input) const;
  /// True if an arena's next tenant may take this one's place.
  bool may_be_evicted(const Value& tenant) const;
  void note_readers(Node& node);
  /// The policy's recipe for the stream that a node can be solved for; nullopt where there is none or it has none.
  std::optional<RecipePtr> ask_about_stream(const Node& node) const;
  /// `for_stream`: what ask_about_stream() has answered.
  void make_offers(Node& node, std::optional<RecipePtr> for_stream);
  /// The mark of a coupling, which tells that its stream cannot be solved for; null on devices whose kernels answer at
  /// once.
  RangeMark* mark_for(const Node& node);
  /// Throws RangeError if a stream that was solved for could not be.
  void check_marks(Device device) const;
  /// The recipe of a value that enters a block and that the block's policy would keep: another block's policy may have
  /// it covered. Null: it is kept; nullopt: it is as it should be.
  std::optional<RecipePtr> recipe_around(const BlockRecording& entered, Value& value) const;
  /// Asks a policy for another recipe.
  void offer(Value& value, const Offer& offer, const Policy& policy, const BlockInfo& block);
  /// Gives a value the recipe that a policy has answered with, if it is not too late for that.
  void accept(Value& value, RecipePtr recipe);
  /// Gives a value another recipe, unless it could not be brought back with it.
  bool adopt(Value& value, RecipePtr recipe);
  /// Takes a value's recipe away: it will not be followed any more. Bytes that are there stay.
  void forget_recipe(Value& value);
  /// True if the sources of a recipe for `reader` are there or can be brought back without it.
  static bool can_be_read(const std::vector<Value*>& sources, const Value& reader);
  /// The sources of a value's recipe have one reader more, and so have those of the ones that nobody has wanted so far.
  static void read_sources(Value& value, std::vector<Value*> sources);
  /// They have one reader less, and so have the sources of those that nobody wants any more.
  void let_sources_go(Value& value) noexcept;
  void let_go_of(std::vector<Value*> sources) noexcept;
  /// True if a recipe that runs the node again would hold on to as many bytes as it gives up: to inputs that nobody
  /// else will read.
  bool frees_nothing(const Node& node, std::span<const Tensor> inputs, const Value& output) const;
  /// True if a value's bytes are there or can be brought back.
  static bool can_return(const Value& value);

  /// Brings one value back whose sources are there; it may take over the memory of those that are `going`.
  void restore_by_recipe(Value& value, std::span<Value* const> going);
  /// True if a value that has been read for the last time in a plan that restores others may lose its bytes. `passing`:
  /// the plan made it on its way to them.
  bool may_go(const Value& value, bool passing) const;
  void drop(Value& value);
  /// Lets a value's recipe save the bytes that are about to go.
  void save(Value& value);

  void check_versions(const Node& node, std::uint64_t read) const;
  /// Throws StateError if an op's result has been changed in place since the op made it.
  static void check_unchanged(const Value& output);
  /// Marks the nodes that the loss depends on (Node::reached), and those that a later backward may still go through
  /// (Node::stays): the user can reach them, and what they depend on is not used up by this one. Throws StateError if
  /// the loss depends on what another backward has used up.
  void mark_reached(const Value& loss);
  void mark_staying();
  void run_backward(Value& root, const BeforeCommit& before_commit);
  void backward_through(std::size_t position);
  /// Applies the corrections of a value's gradient, which is complete but for them.
  void complete_gradient(Value& value);
  void solve_inputs(Node& node);
  /// While `node` runs backwards, what those before it will read may be on its way.
  void fetch_ahead(std::size_t position);
  void retire(Node& node);
  void commit_gradients(const BeforeCommit& before_commit);
  std::map<const Policy*, std::vector<const Op*>> ops_by_policy() const;
  void finish(State state) noexcept;
  /// All that backward went through is used up.
  void finish_backward();
  void release(Nodes& nodes) noexcept;
  void drop_bytes_if_unwanted(Value& value) noexcept;
  std::string describe_blocks() const;

  State state_ = State::Recording;
  Nodes nodes_;
  std::shared_ptr<Session> session_;
  std::shared_ptr<Tape> joined_;        // the tape that has all that this one had
  std::unique_ptr<Verifier> verifier_;  // null where nothing is verified
  int exceptions_;                      // in flight when it was made
  bool interrupted_ = false;
  std::vector<std::uint64_t> calls_;     // of models in which it was recorded (BlockRecording::call)
  std::size_t first_change_ = SIZE_MAX;  // the index of the first op that has changed state
  int overtaken_ = 0;
  bool partly_used_ = false;                    // a backward went through a part of it
  std::size_t in_hand_ = 0;                     // values of its nodes that the user holds
  std::vector<ValuePtr> leaves_with_gradient_;  // in the order in which backward met them
  std::unordered_map<Value*, std::shared_ptr<Storage>> leaf_gradients_;
  std::size_t heavy_replays_ = 0;
  std::size_t unsolvable_ = 0;
  std::size_t unsolvable_bytes_ = 0;
  /// Streams are solved for unless one of these is found set, which had been so often when the coupling was recorded.
  std::vector<std::pair<std::shared_ptr<RangeMark>, std::uint64_t>> relied_on_;
  std::vector<const Value*> on_their_way_;  // fetched ahead of need, and not restored yet
  std::size_t looked_ahead_ = SIZE_MAX;     // nodes from this position on have been looked through for what to fetch
  std::exception_ptr save_error_;  // thrown by Recipe::save where it could not be reported; fails the next operation
};

/// The tensor as one that has come about with these changes of state (Tape::history_of), if there are any.
Tensor with_history(Tensor x, const std::shared_ptr<Tape>& history);

/// Runs a part of an op that is not recorded. An exception fails the op's `history`, which may be null.
template <class Run>
void fail_history_on_error(const std::shared_ptr<Tape>& history, const Run& run) {
  try {
    run();
  } catch (...) {
    if (history != nullptr) history->fail();
    throw;
  }
}

/// Runs the op that waits for a reader on this thread and is not recorded, if there is one (apply_when_read).
void run_unread();
/// Runs that, and those that make these tensors, wherever they wait.
void run_unread(std::span<const Tensor> inputs);
/// The same where nothing may be thrown: an op that cannot run now waits on, and is tried again when it is read.
void try_to_run_unread() noexcept;
/// True if backward will go through an op on these inputs.
bool is_recorded(std::span<const Tensor> inputs);

}  // namespace palimpsest
