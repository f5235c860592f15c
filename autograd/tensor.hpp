#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

struct BlockRecording;

/// Keeps a value's bytes wanted by the user for as long as one Tensor refers to it.
struct Handle {
  Handle(ValuePtr held, std::shared_ptr<Tape> recorded_on);
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  ValuePtr value;
  std::shared_ptr<Tape> tape;  // null for a leaf
};

struct LeafGradient;

/// A tensor: shape, element type, device and bytes; cheap to copy (copies are the same tensor). Reading it always
/// works: bytes that a memory policy has taken are restored. Images are logically (N, C, H, W) and stored
/// channels-last.
class Tensor {
 public:
  Tensor() = default;
  /// The tensor of a value that the engine has made.
  explicit Tensor(std::shared_ptr<Handle> handle) : handle_(std::move(handle)) {}

  /// Uninitialised memory. Throws OutOfMemory, DeviceError.
  static Tensor empty(const Shape& shape, Dtype dtype = Dtype::Float32, Device device = Device::Cpu,
                      Tag tag = Tag::Activation);
  static Tensor zeros(const Shape& shape, Dtype dtype = Dtype::Float32, Device device = Device::Cpu,
                      Tag tag = Tag::Activation);
  /// Copies `values`, given in logical order (N, C, H, W). Throws ShapeError unless there are shape.count() of them.
  template <class T, Dtype = dtype_of<T>>
  static Tensor from_vector(const Shape& shape, const std::vector<T>& values, Device device = Device::Cpu,
                            Tag tag = Tag::Activation);
  /// Copies shape.count() values that already lie in the tensor's own layout (channels-last), from host memory.
  template <class T, Dtype = dtype_of<T>>
  static Tensor from_layout(const Shape& shape, const T* values, Device device = Device::Cpu,
                            Tag tag = Tag::Activation);

  /// True if it refers to a tensor at all.
  explicit operator bool() const { return handle_ != nullptr; }

  const Shape& shape() const { return value().shape(); }
  Dtype dtype() const { return value().dtype(); }
  Device device() const { return value().device(); }

  /// Asks for gradients of this leaf. Returns *this. Throws StateError if it is not a leaf, DtypeError if it is not
  /// floating.
  Tensor& requires_grad(bool on = true);
  bool requires_grad_on() const { return value().requires_grad(); }

  /// The elements in logical order (N, C, H, W). Throws DtypeError unless T is the element type, StateError if the
  /// bytes were lost with a failed step, DeviceError on a meta device.
  template <class T, Dtype = dtype_of<T>>
  std::vector<T> to_vector() const;
  /// The only element, as double. Throws ShapeError if there are several.
  double item() const;

  /// Overwrites the elements of a leaf with those of `source` (same shape and type, any device). Recorded operations
  /// that still need the old ones are refused by backward, and so is reading a result that waits for its first reader
  /// (apply_when_read) and depends on them. Throws ShapeError, DtypeError, StateError.
  void assign(const Tensor& source);

  /// A leaf with the same bytes and no history: what changes the one in place changes the other.
  Tensor detach() const;
  /// The same with another shape of as many elements, which are taken in the tensor's own layout (channels-last): (N,
  /// C, k * H, W) may become (N * k, C, H, W). Throws ShapeError for another number of them.
  Tensor detach(const Shape& shape) const;

  /// Runs backward from this scalar: the gradient of every leaf that asked for one is added to its grad(). All that the
  /// scalar depends on is used up, and whatever else depends on that; other computations stay. Throws ShapeError unless
  /// it has one element, StateError if there is nothing recorded or a backward has used some of it up, and whatever an
  /// op throws; then nothing was changed: no gradient, no running statistic. `before_commit`, if there is one, sees the
  /// gradients that are about to be added, in the order in which backward met the leaves, and may write to them; an
  /// exception of it fails the step like one of an op.
  void backward(const std::function<void(std::span<const LeafGradient>)>& before_commit = nullptr) const;

  /// The gradient collected so far; an empty Tensor if there is none.
  Tensor grad() const;
  void zero_grad() const;

  /// The value behind the handle: what policies see. Restored if `present`.
  Value& value() const;
  const std::shared_ptr<Handle>& handle() const { return handle_; }
  /// Makes the bytes present and returns where they are, for reading; valid until the next operation.
  ConstView view() const;
  /// The bytes of a leaf, to be changed in place before the next operation: by optimisers, loaders. The change counts
  /// as one of assign(). Throws StateError if it is not a leaf.
  View mutable_view() const;
  /// The same for an op that changes its state in Op::begin, and for undoing that (ForwardContext::on_failure): not
  /// counted among Value::assignments().
  View state_view() const;

 private:
  std::shared_ptr<Handle> handle_;
};

/// The memory policies, or the parts of composed ones, that have found nothing to act on among the ops recorded on the
/// way to `loss`, before its backward: "'reversible' of 'reversible+shared'". In such a step they keep what there is.
std::vector<std::string> idle_policies(const Tensor& loss);

/// The number of values made on the way to `loss`, before its backward, that their policies would have solved for, but
/// that the numbers of this step do not allow solving for (Op::can_solve): they are kept.
std::size_t unsolvable_couplings(const Tensor& loss);

/// The gradient of a leaf that a backward has found, in memory that nobody else has.
struct LeafGradient {
  const Value* leaf;
  Tensor gradient;
};

/// While one lives, operations of this thread record nothing and keep nothing for backward.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};

/// True while operations are being recorded on this thread.
bool grad_enabled();

/// Marks the operations recorded while it lives as belonging to a block, under the block's policy. Modules do this in
/// nn::Block; scopes nest and the innermost that has a policy decides.
class BlockScope {
 public:
  /// `block`: null where only what an exception does is the scope's business; what is recorded then belongs to the
  /// block around. `inputs`: what flows into the block; the policy may decide to keep it.
  BlockScope(std::shared_ptr<const BlockInfo> block, std::span<const Tensor> inputs);
  /// If an exception is leaving the block, the steps to which its inputs or what it recorded belong have failed and are
  /// rolled back.
  ~BlockScope();
  BlockScope(const BlockScope&) = delete;
  BlockScope& operator=(const BlockScope&) = delete;

 private:
  std::unique_ptr<BlockRecording> recording_;
};

/// Runs an op on its inputs and returns its outputs, recording it if a gradient may be asked for. Every function
/// in ops/ ends with it. Pass inputs by value and moved where the caller is done with them: their memory may then be
/// reused. Throws DeviceError if the inputs are not all on one device, StateError if one was made by a computation that
/// is used up or has failed or if two threads have recorded them, and what the op throws; the step has failed then and
/// is rolled back.
std::vector<Tensor> apply(std::unique_ptr<Op> op, std::vector<Tensor> inputs);
/// The same for a call without `palimpsest::`, which would else find std::apply.
template <std::derived_from<Op> T>
std::vector<Tensor> apply(std::unique_ptr<T> op, std::vector<Tensor> inputs) {
  return apply(std::unique_ptr<Op>(std::move(op)), std::move(inputs));
}
/// The same for an op with one output.
Tensor apply_single(std::unique_ptr<Op> op, std::vector<Tensor> inputs);

/// The same, but the op's forward runs when its result is first read: what it throws then (OutOfMemory, say) comes out
/// of that reading, and the step has failed. Its begin() runs now. Until it has run, its result is absent, an op
/// recorded next may take its work over (take_unrun), and it is undone if the last tensor of its result goes. If
/// nothing is recorded, under NoGrad or for want of a gradient, it waits as long as no other op runs, no tensor is
/// changed in place and the block goes on, so that the same ops are joined, and the bits are those of a recorded
/// forward. Throws StateError for an op with several outputs or a coupling, whose place among the others
/// counts.
Tensor apply_when_read(std::unique_ptr<Op> op, std::vector<Tensor> inputs);

/// An op that has been taken back before it ran. The tape, if there is one, has what begin() changed: keep it until the
/// op that does this one's work is recorded.
template <class T>
struct Unrun {
  std::unique_ptr<T> op;
  std::vector<Tensor> inputs;
  std::shared_ptr<Tape> tape;
};

/// The op that x waits for; null if x has been made.
const Op* unrun_op(const Tensor& x);
/// The same, if it is a T.
template <class T>
const T* unrun_op(const Tensor& x) {
  return dynamic_cast<const T*>(unrun_op(x));
}
/// The inputs of the op that x waits for; none if x has been made.
std::vector<ValuePtr> unrun_inputs(const Tensor& x);

/// Takes the op that x waits for back, and x with it: the caller does its work as part of an op of its own. Nothing
/// happens unless it is the op recorded last, in the block that is being recorded, and the caller has the only tensor
/// that refers to x. Throws StateError if an input was changed in place since; the step has failed then.
std::optional<Unrun<Op>> take_unrun_op(Tensor& x);

/// The same, if the op is a T.
template <class T>
std::optional<Unrun<T>> take_unrun(Tensor& x) {
  if (unrun_op<T>(x) == nullptr) return std::nullopt;
  std::optional<Unrun<Op>> taken = take_unrun_op(x);
  if (!taken) return std::nullopt;
  return Unrun<T>{std::unique_ptr<T>(static_cast<T*>(taken->op.release())), std::move(taken->inputs),
                  std::move(taken->tape)};
}

/// Checks the inputs of an op, as apply() does before anything happens, and returns what will come out. Throws
/// ValueError for an empty tensor, DeviceError for two devices, and what Op::infer throws.
std::vector<TensorSpec> check_inputs(const Op& op, std::span<const Tensor> inputs);

}  // namespace palimpsest
