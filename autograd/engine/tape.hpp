#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <palimpsest/autograd/engine/arena.hpp>
#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

class PinSet;
class Verifier;
struct BlockRecording;

using BeforeCommit = std::function<void(std::span<const LeafGradient>)>;

/// A gradient of this value as a tensor.
Tensor gradient_tensor(const Value& value, std::shared_ptr<Storage> gradient);

/// The recorded computation of one step: nodes in the order in which they ran. Made when the first op is recorded, used
/// up by backward, gone with the last tensor that refers to it. Nothing here recurses over the graph.
class Tape : public std::enable_shared_from_this<Tape> {
 public:
  enum class State { Recording, Backward, Consumed, Failed };

  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// The tape that this thread records on; null before the first recorded op of a step.
  static std::shared_ptr<Tape> current();

  State state() const { return state_; }
  const std::deque<Node>& nodes() const { return nodes_; }
  const Arenas& arenas() const { return arenas_; }
  /// Forward runs of heavy ops that restoring has cost so far.
  std::size_t heavy_replays() const { return heavy_replays_; }

  /// Makes an absent value present. Throws StateError if nothing can bring it back. Strong guarantee, but for a value
  /// whose op has not run yet (apply_when_read): if that fails, the step has failed.
  void restore(Value& target);

  /// `before_commit`: see Tensor::backward().
  void backward(const Tensor& loss, const BeforeCommit& before_commit);

  /// The step has failed: undoes what its forward changed (running statistics, random counters), drops every byte that
  /// no user's tensor holds, and refuses all further use. Parameters, committed gradients and optimisers were not
  /// touched. State that a broken device does not let it undo is lost with the device.
  void fail() noexcept;

  /// Registers how to undo a change of state if this step fails.
  void on_failure(std::function<void()> undo) { undo_.push_back(std::move(undo)); }

  // For the functions and contexts that contracts declare.

  static std::shared_ptr<Tape> current_or_new();
  /// Runs an op for the first time and records it. `specs`: what Op::infer says.
  std::vector<Tensor> apply(std::unique_ptr<Op> op, std::vector<Tensor> inputs, const std::vector<TensorSpec>& specs);
  Tensor apply_when_read(std::unique_ptr<Op> op, std::vector<Tensor> inputs, const TensorSpec& spec);
  std::optional<Unrun<Op>> take_unrun(Tensor& x);
  /// Asks a block's policy about what enters the block.
  void enter(BlockRecording& block, std::span<const Tensor> inputs);

  Arenas& arenas() { return arenas_; }
  void make_memory(Value& value);
  void drop_if_unwanted(Value& value) noexcept;
  /// The user's last tensor of a value has gone.
  void let_go(Value& value) noexcept;
  /// The place in which a value's gradient is collected.
  std::shared_ptr<Storage>& gradient_slot(Value& value);
  void count_heavy_replay() { ++heavy_replays_; }

 private:
  void check_same_step(const Op& op, std::span<const Tensor> inputs) const;
  /// A value that an op recorded here is to make.
  Tensor make_result(const TensorSpec& spec, Device device);
  Node& add_node(std::unique_ptr<Op> op, std::span<const Tensor> inputs, std::span<const Tensor> outputs);
  /// Makes the inputs of a new node present, pins them and notes which versions of them it reads.
  void read_inputs(Node& node, PinSet& pins);
  /// Runs a node for the first time and decides how its outputs reach backward. `inputs` has the caller's tensors,
  /// whose memory may be taken over, and is empty for a node that has waited.
  void run_first(Node& node, std::span<const Tensor> inputs);
  /// Runs the producer of a value, if it waits.
  void run_if_waiting(Value& value);
  /// The node will not run.
  void undo_waiting(Node& node) noexcept;
  void let_inputs_go(Node& node) noexcept;
  /// Runs a part of the step; what it throws fails the step.
  void fail_on_error(const std::function<void()>& run);
  /// Makes memory for an output that is to exist.
  View place_output(Node& node, std::span<const Tensor> inputs, std::size_t output, PinSet& pins);
  /// Lets an output have the memory of the input that it may overwrite. Returns whether it does.
  bool take_over_input(Node& node, std::span<const Tensor> inputs, Value& output);
  bool may_overwrite(const Node& node, const Tensor& input, const Value& output) const;
  void note_readers(Node& node);
  void make_offers(Node& node);
  /// Asks a policy for another recipe.
  void offer(Value& value, const Offer& offer, const Policy& policy, const BlockInfo& block);
  /// Gives a value another recipe, unless it could not be brought back with it.
  bool adopt(Value& value, RecipePtr recipe);
  /// Takes a value's recipe away at the last moment at which it could be followed. Bytes that are there stay.
  void forget_recipe(Value& value);
  /// True if a value's bytes are there or can be brought back.
  static bool can_return(const Value& value);

  /// Brings one value back whose sources are there.
  void restore_by_recipe(Value& value);
  void drop(Value& value);
  /// Lets a value's recipe save the bytes that are about to go.
  void save(Value& value);

  void check_versions(const Node& node, std::uint64_t read) const;
  /// Marks the nodes that the loss depends on (Node::reached).
  void mark_reached(const Value& loss);
  void run_backward(Value& root, const BeforeCommit& before_commit);
  void backward_through(Node& node);
  /// Applies the corrections of a value's gradient, which is complete but for them.
  void complete_gradient(Value& value);
  void solve_inputs(Node& node);
  /// While `node` runs backwards, what those before it will read may be on its way.
  void fetch_ahead(const Node& node);
  void retire(Node& node);
  void commit_gradients(const BeforeCommit& before_commit);
  /// Throws ValueError for a policy, or a part of one, that had nothing to act on in the whole step.
  void check_policies_acted() const;
  std::map<const Policy*, std::vector<const Op*>> ops_by_policy() const;
  void finish(State state) noexcept;
  std::string describe_blocks() const;

  State state_ = State::Recording;
  std::deque<Node> nodes_;  // a deque: values point to nodes
  Arenas arenas_;
  std::unique_ptr<Verifier> verifier_;  // null where nothing is verified
  std::vector<std::function<void()>> undo_;
  std::vector<ValuePtr> leaves_with_gradient_;  // in the order in which backward met them
  std::unordered_map<Value*, std::shared_ptr<Storage>> leaf_gradients_;
  std::size_t heavy_replays_ = 0;
  std::vector<const Value*> on_their_way_;  // fetched ahead of need, and not restored yet
  std::size_t looked_ahead_ = SIZE_MAX;     // nodes from this one on have been looked through for what to fetch
  std::exception_ptr save_error_;  // thrown by Recipe::save where it could not be reported; fails the next operation
};

}  // namespace palimpsest
