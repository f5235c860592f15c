#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <palimpsest/autograd/op.hpp>
#include <palimpsest/autograd/policy.hpp>

namespace palimpsest {

class Tensor;
struct ValueState;

/// The bytes of one tensor, or of several that share them (Tensor::detach), and how often they were changed in place.
struct Storage : Buffer {
  using Buffer::Buffer;
  std::uint64_t version = 0;
  std::uint64_t assignments = 0;  ///< those changes that were not an op's
};

/// One tensor of the recorded computation, or a leaf: shape, element type, device, perhaps bytes, perhaps a gradient,
/// and the recipe that brings absent bytes back. Users hold Tensors; policies and recipes read Values.
///
/// The bytes stay while somebody will read them: `handles` counts the user's tensors, `readers` the recorded nodes
/// whose backward (or replay) still will. A value with a recipe is given up as soon as the user lets go, whatever its
/// readers.
class Value : public std::enable_shared_from_this<Value> {
 public:
  Value(const Shape& shape, Dtype dtype, Device device);
  ~Value();
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;

  const Shape& shape() const { return shape_; }
  Dtype dtype() const { return dtype_; }
  Device device() const { return device_; }
  std::size_t bytes() const { return static_cast<std::size_t>(shape_.count()) * size_of(dtype_); }
  bool present() const;
  /// Made by the user (data, a parameter), not by a recorded op.
  bool leaf() const;
  bool requires_grad() const;
  /// The node that makes it; null for a leaf.
  const Node* producer() const;
  const Recipe* recipe() const;
  /// How many gradients and replays will still read it.
  int readers() const;
  /// True if a tensor of the user's refers to it.
  bool held_by_user() const;
  /// The index among its producer's outputs.
  std::size_t output() const;
  /// Counts in-place changes of the bytes; 0 for bytes that no user has changed.
  std::uint64_t version() const;
  /// Those of them that the user has made himself, and not an op that changes its state (Tensor::state_view).
  std::uint64_t assignments() const;

  View view() const;

  /// The engine's own (autograd/engine/value_state.hpp).
  ValueState& state() { return *state_; }
  const ValueState& state() const { return *state_; }

 private:
  Shape shape_;
  Dtype dtype_;
  Device device_;
  std::unique_ptr<ValueState> state_;
};

using ValuePtr = std::shared_ptr<Value>;

/// A recorded op.
struct Node {
  std::unique_ptr<Op> op;
  std::vector<ValuePtr> inputs;
  std::vector<ValuePtr> outputs;
  std::vector<std::uint64_t> input_versions;  ///< versions of the inputs' bytes when they were read
  std::vector<Value*> held;      ///< values that its gradient reads: one reader more until its turn is over
  std::vector<Value*> solvable;  ///< values whose recipe runs this node backwards
  Needs needs;
  std::shared_ptr<const BlockInfo> block;  ///< null outside every block
  PolicyPtr policy;       ///< of the innermost block that has one when the op is recorded; null: keep everything
  int depth = 0;          ///< blocks with policies around that block; one that plans the whole step does not count
  int blocks = 0;         ///< blocks with policies that it is in, models not among them
  std::size_t index = 0;  ///< in the order in which the thread has recorded all that is under way
  std::size_t place = 0;  ///< in the step as the policy counts (Policy::place); no_place without a policy
  bool begins = false;    ///< whether it is the first op of a model's call, or of a block's that is in no other
  /// True while it waits for a reader (apply_when_read): its output is absent until it runs, and its inputs are pinned.
  bool waits = false;
  bool reached = false;  ///< in backward: whether the loss depends on an output, which will get a gradient
  bool stays = false;    ///< in backward: whether another backward may still go through it
};

/// Recorded ops in the order in which they were recorded. An op does not move in memory: values point to it.
class Nodes {
 public:
  template <class N, class Position>
  class Iterator {
   public:
    explicit Iterator(Position at) : at_(at) {}
    N& operator*() const { return **at_; }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    bool operator==(const Iterator&) const = default;

   private:
    Position at_;
  };
  using List = std::vector<std::unique_ptr<Node>>;

  auto begin() { return Iterator<Node, List::iterator>(list_.begin()); }
  auto end() { return Iterator<Node, List::iterator>(list_.end()); }
  auto begin() const { return Iterator<const Node, List::const_iterator>(list_.begin()); }
  auto end() const { return Iterator<const Node, List::const_iterator>(list_.end()); }
  std::size_t size() const { return list_.size(); }
  bool empty() const { return list_.empty(); }
  Node& operator[](std::size_t i) { return *list_[i]; }
  const Node& operator[](std::size_t i) const { return *list_[i]; }
  Node& back() { return *list_.back(); }
  const Node& back() const { return *list_.back(); }

  Node& add() { return *list_.emplace_back(std::make_unique<Node>()); }
  void pop_back() { list_.pop_back(); }
  void clear() { list_.clear(); }
  /// Takes all of `others`, whose indices differ from these.
  void merge(Nodes& others);
  /// Takes those out that do not stay (Node::stays).
  Nodes take_used();

 private:
  List list_;
};

/// The argument of Recipe::restore.
class Restoring {
 public:
  /// `going`: sources that nobody reads after this restoring, or that come back by their recipes for those who do.
  Restoring(Tape& tape, Value& value, std::span<Value* const> going) : tape_(tape), value_(value), going_(going) {}

  const Value& value() const { return value_; }
  /// Makes memory for the value and returns it, uninitialised.
  View destination();
  /// Takes over the memory of `source`, if nobody else will read it; otherwise makes memory like destination().
  View destination_over(Value& source);
  /// Gives the value memory of its size on its device that holds its bytes already.
  void take(std::shared_ptr<Storage> memory);
  /// Runs the forward of the value's producer again: into destination_over() the input that it may overwrite
  /// (Op::overwritable_input), or into destination().
  void replay();

 private:
  Tape& tape_;
  Value& value_;
  std::span<Value* const> going_;
};

}  // namespace palimpsest
