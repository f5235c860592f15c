#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

/// The purpose of a run: the first forward, or the Op::begin of an op that waits for a reader; to bring an output back;
/// to solve for an input; gradients. Fetch runs no op: it brings an output of the op back from elsewhere.
enum class RunKind : std::uint8_t { Forward, Replay, Solve, Fetch, Backward };

constexpr std::string_view to_string(RunKind kind) {
  constexpr std::array<std::string_view, 5> names = {"forward", "replay", "solve", "fetch", "backward"};
  return names[static_cast<std::size_t>(kind)];
}

/// A run of a recorded op. Memory that is allocated while it lasts is allocated for it.
struct OpRun {
  const Node& node;
  const BlockInfo* block;  ///< null outside every block
  RunKind kind;
};

/// Is told what the tapes of its thread do, while it is installed (ObserverScope). It sees, and changes nothing.
class Observer {
 public:
  virtual ~Observer() = default;

  /// The first op is about to be recorded while nothing is under way: what nodes and values were told of before is
  /// over.
  virtual void session_begins() {}
  /// The inputs of the op are there; its outputs may not yet be.
  virtual void run_begins(const OpRun&) {}
  /// The run that began last is over, or has failed and then has done no work.
  virtual void run_ends(const Work&) noexcept {}
  /// The value has bytes, at Value::view().data: made, restored or taken over from another value.
  virtual void placed(const Value&) {}
  /// A gradient of the value has memory at `address`. Several values may share it.
  virtual void gradient_placed(const Value&, const void* /*address*/) {}
  /// Forward is over: recipes and readers are final. `nodes`: all of the computation that backward goes through.
  virtual void backward_begins(const Nodes& /*nodes*/) {}
};

/// Installs an observer for the tapes of this thread while it lives; scopes nest, and the innermost counts.
class ObserverScope {
 public:
  explicit ObserverScope(Observer* observer);
  ~ObserverScope();
  ObserverScope(const ObserverScope&) = delete;
  ObserverScope& operator=(const ObserverScope&) = delete;

 private:
  Observer* outer_;
};

/// The observer of this thread, null for none.
Observer* observer();

}  // namespace palimpsest
