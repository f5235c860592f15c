#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <palimpsest/autograd/observer.hpp>
#include <palimpsest/core/allocator.hpp>

namespace palimpsest::memory {

/// All that happened to memory in one step, and why: every op run, every allocation, every value. Plain data, for
/// reports and the planner. Indices refer to the vectors of StepTrace; -1 is none.
struct StepTrace {
  /// A recorded op.
  struct Op {
    std::string name;
    std::string block;  ///< empty outside every block
    Cost cost = Cost::Free;
    int session = 0;           ///< how many others were over when nothing was under way and its session began
    bool has_policy = false;   ///< Node::policy: one decides about its outputs
    bool begins = false;       ///< Node::begins
    std::vector<int> inputs;   ///< values
    std::vector<int> outputs;  ///< values
  };

  /// A tensor of the computation: an op's output or a leaf (op = -1).
  struct Value {
    int op = -1;
    int output = 0;  ///< which of the op's
    Shape shape;
    Dtype dtype = Dtype::Float32;
    std::size_t bytes = 0;
    bool requires_grad = false;
    bool optional = false;     ///< see Needs::optional_outputs
    Way way = Way::Keep;       ///< in which it reaches backward
    std::string recipe = "";   ///< the recipe's name, for people; "keep" for an op's output without one
    std::vector<int> sources;  ///< the values that the recipe reads to bring it back
    int arena = -1;            ///< of the recipe
    int nesting = 0;           ///< of the recipe
    bool exact = true;         ///< whether the recipe brings back the very bytes
    std::vector<int> read_by;  ///< ops whose backward reads it
    int solvable_from = -1;    ///< the coupling that can be solved for it
    bool user_holds = false;   ///< at the end of forward
  };

  /// A run of an op.
  struct Run {
    int op = -1;  ///< for an op that another took over before it ran: the other
    std::string name;
    std::string block;
    RunKind kind = RunKind::Forward;
    Work work;
    double begin_us = 0;  ///< since the beginning of the step
    double end_us = 0;
    std::size_t first_event = 0;  ///< events from here on ...
    std::size_t last_event = 0;   ///< ... to before here happened in it
  };

  /// An allocation or its release.
  struct Event {
    bool allocates = false;
    Tag tag = Tag::Activation;
    std::size_t bytes = 0;
    std::uintptr_t address = 0;
    int allocation = -1;  ///< of both the allocation and its release; -1: released, but allocated before the step
    int run = -1;         ///< in which run, -1 between runs
    double at_us = 0;
  };

  /// The purpose of an allocation.
  struct Allocation {
    Tag tag = Tag::Activation;
    std::size_t bytes = 0;
    int value = -1;         ///< the value, where it holds one's bytes or gradient
    bool gradient = false;  ///< the value's gradient
    int run = -1;           ///< in which run it was made
  };

  // By number, which must not be -1.
  const Op& op(int number) const { return ops[static_cast<std::size_t>(number)]; }
  const Value& value(int number) const { return values[static_cast<std::size_t>(number)]; }
  Value& value(int number) { return values[static_cast<std::size_t>(number)]; }
  const Run& run(int number) const { return runs[static_cast<std::size_t>(number)]; }
  Run& run(int number) { return runs[static_cast<std::size_t>(number)]; }
  const Allocation& allocation(int number) const { return allocations[static_cast<std::size_t>(number)]; }
  Allocation& allocation(int number) { return allocations[static_cast<std::size_t>(number)]; }

  /// Numbers of what happened one after the other: from the first to before the last.
  struct Range {
    std::size_t begin = 0;
    std::size_t end = 0;

    bool contains(std::size_t number) const { return begin <= number && number < end; }
  };

  /// A backward call and what follows it, an update for one: up to the next op that is recorded, the next such call or
  /// the end of the step. All else is forward.
  struct Backward {
    Range runs;
    Range events;
  };

  std::vector<Op> ops;
  std::vector<Value> values;
  std::vector<Run> runs;
  std::vector<Event> events;
  std::vector<Allocation> allocations;
  std::size_t live_before = 0;  ///< bytes in use when the step began
  TagBytes live_before_by_tag{};
  std::vector<Backward> backwards;

  /// All that happened from the first op that was recorded while nothing was under way to the next such op: a step with
  /// several backward calls, one after the other, has as many. Ranges of ops, runs and events, the ends not included;
  /// what happened before the first session counts to it.
  struct Session {
    Range ops;
    Range runs;
    Range events;
    std::size_t peak = 0;  ///< live bytes
  };
  std::vector<Session> sessions() const;

  /// The moment of the highest live bytes: the index of the event that reached it, and those bytes.
  struct Peak {
    std::size_t event = 0;
    std::size_t bytes = 0;
    TagBytes by_tag{};
  };
  Peak peak() const;
  /// The allocations made in the step that are live after `event`.
  std::vector<int> live_after(std::size_t event) const;
  /// The bytes that were in use when the step began and still are after `event`.
  TagBytes older_after(std::size_t event) const;
  /// All runs together, and those of one kind.
  Work work() const;
  Work work(RunKind kind) const;
};

/// Records the step that this thread runs while it lives: from its construction to take(). Install it before the step's
/// first op. There is one log at a time for a device: other threads must not use the device's memory meanwhile.
class StepRecorder : public Observer, public AllocationListener {
 public:
  explicit StepRecorder(Device device);
  ~StepRecorder() override;
  StepRecorder(const StepRecorder&) = delete;
  StepRecorder& operator=(const StepRecorder&) = delete;

  /// Begins anew: the step has failed and is taken again. Memory that is still live is older than the step
  /// from now on.
  void restart();
  /// The record. Ends the recording. Throws std::bad_alloc if memory did not suffice for the record.
  StepTrace take();

  void session_begins() override;
  void run_begins(const OpRun& run) override;
  void run_ends(const Work& work) noexcept override;
  void placed(const palimpsest::Value& value) override;
  void gradient_placed(const palimpsest::Value& value, const void* address) override;
  void backward_begins(const Nodes& nodes) override;
  void allocated(const void* address, std::size_t bytes, Tag tag) noexcept override;
  void released(const void* address, std::size_t bytes, Tag tag) noexcept override;

 private:
  using Clock = std::chrono::steady_clock;

  int number_of(const palimpsest::Value& value);
  /// A number for a value that nothing has been told of yet.
  int add(const palimpsest::Value& value);
  int number_of(const Node& node);
  /// The number of an op of which nothing else need be known yet.
  int place_of(const Node& node);
  void record_recipe(const Recipe& recipe, const palimpsest::Value& of);
  double now() const;
  /// The backward that was called last is over, and so is what followed it.
  void end_backward();
  void stop() noexcept;

  Device device_;
  StepTrace record_;
  int session_ = 0;
  // Numbers in this session: another one may use addresses of values and indices of nodes again.
  std::unordered_map<const palimpsest::Value*, int> values_;
  std::unordered_map<std::size_t, int> numbers_;  // of ops, by Node::index: others may have been recorded before
  std::unordered_map<const void*, int> live_;     // address -> allocation
  std::vector<int> open_;                         // runs
  bool in_backward_ = false;
  Clock::time_point start_ = Clock::now();
  bool lost_ = false;  // a record could not be made
  bool stopped_ = false;
  AllocationListener* outer_;
  ObserverScope scope_{this};
};

}  // namespace palimpsest::memory
