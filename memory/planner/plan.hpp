#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::memory {

/// How a plan lets a value reach backward.
enum class Choice : std::uint8_t { Keep, Replay, ArenaOfJoins, Arena, Invert, Offload };

/// A recipe for each value of a step, in the order in which the step records them.
class Plan {
 public:
  /// Keeps everything that the step in this record makes.
  explicit Plan(const StepTrace& step);

  Choice at(int op, int output) const { return entries_[index(op, output)].choice; }
  int nesting(int op, int output) const { return entries_[index(op, output)].nesting; }
  static constexpr int most_nesting = 255;
  /// `nesting`, from 0 to most_nesting, is for Choice::Replay: see Recipe::nesting().
  void set(int op, int output, Choice choice, int nesting = 0) {
    entries_[index(op, output)] = {choice, static_cast<std::uint8_t>(nesting)};
  }
  /// How many values there are of a choice.
  std::size_t count(Choice choice) const;

  friend bool operator==(const Plan& a, const Plan& b) { return a.entries_ == b.entries_; }

  /// The policy that follows the plan. It covers the whole model, what is outside every block included. In a step that
  /// records other ops than the planned one it throws StateError; other shapes (a smaller last batch) are all right.
  PolicyPtr policy(std::string name) const;

 private:
  friend class PlannedPolicy;

  struct Entry {
    Choice choice = Choice::Keep;
    std::uint8_t nesting = 0;

    friend bool operator==(const Entry& a, const Entry& b) { return a.choice == b.choice && a.nesting == b.nesting; }
  };

  std::size_t index(int op, int output) const {
    return first_[static_cast<std::size_t>(op)] + static_cast<std::size_t>(output);
  }

  std::vector<Entry> entries_;
  std::vector<std::size_t> first_;                            // entry of each op's first output
  std::shared_ptr<const std::vector<std::string>> op_names_;  // for comparison with the step
};

}  // namespace palimpsest::memory
