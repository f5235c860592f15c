#pragma once

#include <utility>
#include <vector>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>

namespace palimpsest {

/// Pins values for as long as it lives: their bytes are neither dropped nor evicted.
class PinSet {
 public:
  explicit PinSet(Tape& tape) : tape_(tape) {}
  PinSet(const PinSet&) = delete;
  PinSet& operator=(const PinSet&) = delete;
  ~PinSet() {
    while (!pinned_.empty()) release_last();
  }

  void pin(Value& value) {
    pinned_.push_back(&value);
    ++value.state().pins;
  }

  /// Takes one pin off a value that was pinned here.
  void unpin(Value& value) {
    --value.state().pins;
    for (std::size_t i = pinned_.size(); i-- > 0;) {
      if (pinned_[i] != &value) continue;
      pinned_[i] = pinned_.back();
      pinned_.pop_back();
      break;
    }
    tape_.drop_if_unwanted(value);
  }

 private:
  void release_last() {
    Value& value = *pinned_.back();
    pinned_.pop_back();
    --value.state().pins;
    tape_.drop_if_unwanted(value);
  }

  Tape& tape_;
  std::vector<Value*> pinned_;
};

}  // namespace palimpsest
