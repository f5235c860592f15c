#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/shape.hpp>
#include <palimpsest/core/types.hpp>

namespace palimpsest {

class RangeMark;
class Value;
class PinSet;
class Tape;
struct Node;

/// Throws DeviceError: a tensor on a meta device has no elements.
[[noreturn]] void refuse_meta(Device device);

/// The bytes of a tensor as kernels see them: where they are and how to read them. Does not own. Null `data` on an
/// optional output or gradient means that nobody wants it; on a meta device there are none behind `data`, and as()
/// throws DeviceError.
struct View {
  void* data = nullptr;
  Shape shape;
  Dtype dtype = Dtype::Float32;
  Device device = Device::Cpu;

  template <class T>
  T* as() const {
    if (is_meta(device)) refuse_meta(device);
    return static_cast<T*>(data);
  }
  std::size_t bytes() const { return static_cast<std::size_t>(shape.count()) * size_of(dtype); }
  explicit operator bool() const { return data != nullptr; }
};

/// A View whose bytes are not to be written.
struct ConstView {
  ConstView(const View& view) : data(view.data), shape(view.shape), dtype(view.dtype), device(view.device) {}

  const void* data;
  Shape shape;
  Dtype dtype;
  Device device;

  template <class T>
  const T* as() const {
    if (is_meta(device)) refuse_meta(device);
    return static_cast<const T*>(data);
  }
  std::size_t bytes() const { return static_cast<std::size_t>(shape.count()) * size_of(dtype); }
};

/// Shape and element type of a tensor that need not exist yet.
struct TensorSpec {
  Shape shape;
  Dtype dtype = Dtype::Float32;
};

/// The cost of an op's forward: nothing to speak of, a pass over memory, or arithmetic (a GEMM, a convolution).
enum class Cost : std::uint8_t { Free, Cheap, Heavy };

/// The amount of work in a run of an op: arithmetic (a multiply-add counts as two) and bytes read and written once
/// each.
struct Work {
  double operations = 0;
  double bytes = 0;

  Work& operator+=(const Work& other) {
    operations += other.operations;
    bytes += other.bytes;
    return *this;
  }
};

/// The values that an op's backward reads. Bit i stands for input or output i; those beyond 63 are read if all bits are
/// set.
struct Needs {
  std::uint64_t inputs = 0;
  std::uint64_t outputs = 0;
  /// Outputs that the op makes for its backward alone, and only where the policy keeps them (Policy::keeps_optional).
  /// Backward reads those that were made and does without the others. Nobody else gets to see such an output.
  std::uint64_t optional_outputs = 0;

  bool input(std::size_t i) const { return contains(inputs, i); }
  bool output(std::size_t i) const { return contains(outputs, i); }
  bool optional_output(std::size_t i) const { return contains(optional_outputs, i); }
  static constexpr bool contains(std::uint64_t set, std::size_t i) {
    return i < 64 ? (set >> i & 1) != 0 : set == ~std::uint64_t{0};
  }
};

/// The bit of `Needs` for each index.
template <class... Indices>
constexpr std::uint64_t bits(Indices... indices) {
  return ((std::uint64_t{1} << indices) | ... | std::uint64_t{0});
}
inline constexpr std::uint64_t all_bits = ~std::uint64_t{0};

/// A result about a value that is left with it for the next op that asks: its batch statistics, say.
class ValueCache {
 public:
  virtual ~ValueCache() = default;
};

/// The arguments of Op::begin and Op::forward. Inputs are present; outputs are uninitialised, except that an output may
/// have the memory of the input that Op::overwritable_input names.
class ForwardContext {
 public:
  ForwardContext(std::span<const View> inputs, std::span<const View> outputs, Device device, Tape* tape = nullptr,
                 std::span<const std::shared_ptr<Value>> values = {}, RangeMark* mark = nullptr)
      : inputs_(inputs), outputs_(outputs), device_(device), tape_(tape), values_(values), mark_(mark) {}
  /// For an op that is not recorded: `history` has the changes of state that its inputs come with, and gets its own.
  ForwardContext(std::span<const View> inputs, std::span<const View> outputs, Device device,
                 std::shared_ptr<Tape>& history)
      : inputs_(inputs), outputs_(outputs), device_(device), history_(&history) {}

  const View& input(std::size_t i) const { return inputs_[i]; }
  std::span<const View> inputs() const { return inputs_; }
  /// An op with several outputs must expect null ones on replay: those need not be written. So must one with optional
  /// outputs (Needs::optional_outputs), always.
  const View& output(std::size_t i = 0) const { return outputs_[i]; }
  std::span<const View> outputs() const { return outputs_; }
  Device device() const { return device_; }
  /// False if nobody will differentiate what the op makes, and nothing will be solved for or computed again.
  bool recorded() const { return tape_ != nullptr; }
  /// On CUDA, in the first forward of an op whose Op::solvable_input the policy wants solved for: where the kernel
  /// tells that the numbers do not allow it, which Op::can_solve cannot know. Null everywhere else.
  RangeMark* mark() const { return mark_; }

  /// Scratch memory, gone when the returned buffer is.
  Buffer workspace(std::size_t bytes) const { return Buffer(device_, bytes, Tag::Workspace); }

  /// In Op::begin: registers how to undo a change of state that it makes, should the step fail, and how to make the
  /// same change on top of another state (`redo`): if a computation that was begun earlier and has changed the same
  /// state fails, this change is undone, then the other, and this one made again. Both hold on to whatever they need.
  void on_failure(std::function<void()> undo, std::function<void()> redo = nullptr) const;

  /// In Op::begin: the place where a result about input i is kept for all its readers. Null for a leaf, whose bytes the
  /// user may change, and where nothing is recorded.
  std::shared_ptr<ValueCache>* cache(std::size_t i) const;

  /// In Op::begin: counts work that it has done. None unless it says so.
  void add_work(const Work& work) { work_ += work; }
  const Work& work() const { return work_; }

 private:
  std::span<const View> inputs_;
  std::span<const View> outputs_;
  Device device_;
  Tape* tape_ = nullptr;
  std::span<const std::shared_ptr<Value>> values_ = {};
  std::shared_ptr<Tape>* history_ = nullptr;
  RangeMark* mark_ = nullptr;
  Work work_;
};

/// The destination of an input's gradient: every element must be written or, where `accumulate`, added to.
struct GradientTarget {
  View view;
  bool accumulate = false;
};

/// The arguments of Op::backward: the gradients of the outputs, the values it asked for in Op::needs, and where the
/// gradients of the inputs go.
class BackwardContext {
 public:
  BackwardContext(Tape& tape, Node& node, PinSet& pins);

  /// The gradient of output o; null if nothing flowed into it.
  View grad_output(std::size_t o = 0) const;
  /// A value named in Op::needs; null for an optional output that was not kept. Throws StateError for one that is not
  /// named there: its bytes may be gone.
  View input(std::size_t i) const;
  View output(std::size_t o = 0) const;
  Device device() const;

  /// True if input i wants a gradient.
  bool wants(std::size_t i) const;
  std::size_t input_count() const;
  const Shape& input_shape(std::size_t i) const;

  /// Says that input i, which was named in Op::needs, has been read for the last time: its bytes may go before the rest
  /// of this backward asks for memory. Throws StateError if it has been called, and input(i) does from then on.
  void done_with_input(std::size_t i);

  /// The destination of input i's gradient. Call it, or one of the two below, once for every wanted input. A backward
  /// that leaves one out, asks for one that nobody wants or, on the CPU, leaves its first or last element unwritten is
  /// a StateError; so is any place that the op does not have.
  GradientTarget grad_input(std::size_t i);
  /// The same, in the memory of output o's gradient where nobody else needs that: the kernel must allow the two to be
  /// one.
  GradientTarget grad_input_over(std::size_t i, std::size_t o = 0);
  /// The gradient of input i is that of output o, unchanged: shares the memory instead of copying it.
  void pass_through(std::size_t i, std::size_t o = 0);

  /// Adds to the gradient of input i, which this backward has added to, once all that read the input have: `correct` is
  /// then called with the input's bytes, which are kept for it, and the gradient.
  void on_complete(std::size_t i, std::function<void(const View& input, const View& gradient)> correct);

  Buffer workspace(std::size_t bytes) const { return Buffer(device(), bytes, Tag::Workspace); }

  /// Throws StateError, naming the op, if the gradient of an input that wants one was not asked for, or was and is not
  /// written. Called behind every backward.
  void check_all_written() const;

 private:
  Tape& tape_;
  Node& node_;
  PinSet& pins_;
  std::vector<bool> written_;  // by input: its gradient has a destination
  std::vector<bool> marked_;   // where both ends of that have a mark which the op is to overwrite
  std::vector<bool> done_;     // inputs that are not to be read any more

  void check_wanted(std::size_t i) const;
};

/// One operation: a pure forward and its gradient. An object is made for each call and lives on the tape; it holds the
/// attributes and whatever begin() froze (batch statistics, random counters). It must not hold its inputs.
class Op {
 public:
  virtual ~Op() = default;

  /// The field's name for it, as error messages and reports print it.
  virtual std::string_view name() const = 0;
  virtual Cost cost() const = 0;

  /// The work of a forward. The views are those of the run: outputs that it does not write have null data. Unless an op
  /// says otherwise it is a pass over memory, with one operation an element; that of a heavy one is for it to say, so
  /// that no plan takes it for free: StateError.
  virtual Work forward_work(std::span<const View> inputs, std::span<const View> outputs) const;
  /// The work of a backward that makes the gradients of the inputs in `wanted`, all outputs' gradients being there.
  /// Views that backward does not read have null data.
  virtual Work backward_work(std::span<const View> inputs, std::span<const View> outputs,
                             const std::vector<bool>& wanted) const;

  /// Checks the inputs and says what comes out. Throws ShapeError, DtypeError, ValueError.
  virtual std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const = 0;

  /// Called once, before the first forward: fixes what every forward will use and commits what changes in the model
  /// (running statistics, random counters). Inputs are present, there may be no outputs yet. An op that waits for a
  /// reader (apply_when_read) does it when it is recorded.
  virtual void begin(ForwardContext&) {}

  /// Computes the outputs, as often as they are wanted: a function of the inputs, the attributes and what begin()
  /// froze.
  virtual void forward(ForwardContext& io) = 0;

  /// The values that backward will read: a property of the attributes alone.
  virtual Needs needs() const = 0;
  virtual void backward(BackwardContext& io) = 0;

  /// The input whose memory the (only) output may take over where nobody will read that input again; -1 for none.
  virtual int overwritable_input() const { return -1; }

  /// The input that can be solved from the (only) output and the other inputs, -1 for none (Gomez et al. 2017).
  virtual int solvable_input() const { return -1; }
  /// Computes that input. `inputs` has a null view in its place; `solved` may have the memory of the output or of
  /// another input that nobody will read again.
  virtual void solve(std::span<const View> inputs, const View& output, const View& solved) const;
  /// Asked after the first forward: false if the numbers of this run do not allow it. The input is then kept. On CUDA
  /// the answer is what the run before has told (ForwardContext::mark): where it was wrong the step fails, and another
  /// one knows.
  virtual bool can_solve() const { return true; }
  /// True if solve() returns the very bits. Only then can they be verified.
  virtual bool solves_exactly() const { return false; }

  /// The state outside the op that begin() changes, as it is now: running statistics, a random counter
  /// (of any type: its bytes count). Running the op again must leave it alone, and verification sees to it.
  virtual std::vector<View> state() const { return {}; }

 protected:
  /// The bytes that a forward, or a backward, reads and writes once each.
  static double forward_bytes(std::span<const View> inputs, std::span<const View> outputs);
  static double backward_bytes(std::span<const View> inputs, std::span<const View> outputs,
                               const std::vector<bool>& wanted);

 private:
  void check_light(const char* function) const;
};

}  // namespace palimpsest
