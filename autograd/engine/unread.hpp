#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest {

/// An op that waits for a reader and is not recorded. It belongs to its result: whoever reads that first runs it, on
/// any thread, and it goes with the last tensor of it.
struct Unread {
  std::unique_ptr<Op> op;       ///< null when it has run, or has been taken back
  std::vector<Tensor> inputs;   ///< detached: restoring one may evict another from its arena
  std::vector<ValuePtr> read;   ///< the values that they are detached from
  std::weak_ptr<Tape> history;  ///< the result holds it
  std::shared_ptr<const BlockInfo> block;
  std::mutex mutex;

  bool waits();
  /// Makes the result, once.
  void run(Value& result);
};

}  // namespace palimpsest
