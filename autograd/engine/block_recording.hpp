#pragma once

#include <cstddef>
#include <memory>

#include <palimpsest/autograd/policy.hpp>

namespace palimpsest {

/// A block that is being recorded: what a BlockScope stands for.
struct BlockRecording {
  std::shared_ptr<const BlockInfo> block;
  BlockRecording* outer;
  std::shared_ptr<Tape> tape;    ///< the step may have nothing else that holds it
  bool recording;                ///< what happens under NoGrad is no step's business
  int exceptions;                ///< in flight when the block began
  std::size_t branch_start = 0;  ///< the first node after the last coupling of this block
  std::size_t first_node = 0;    ///< the first node that can be recorded in it

  /// This block or the innermost around it that has a policy; null for none.
  const BlockRecording* with_policy() const {
    const BlockRecording* recording = this;
    while (recording != nullptr && recording->block->policy == nullptr) recording = recording->outer;
    return recording;
  }
  /// The number of blocks around it that have a policy of their own, but for one that plans the whole step.
  int depth() const {
    int blocks = 0;
    for (const BlockRecording* around = outer; around != nullptr; around = around->outer) {
      if (around->block->policy != nullptr && !around->block->policy->covers_the_rest()) ++blocks;
    }
    return blocks;
  }
};

}  // namespace palimpsest
