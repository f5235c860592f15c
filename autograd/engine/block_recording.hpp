#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <palimpsest/autograd/policy.hpp>

namespace palimpsest {

/// A block that is being recorded: what a BlockScope stands for.
struct BlockRecording {
  std::shared_ptr<const BlockInfo> block;  ///< null: what is recorded belongs to the block around
  BlockRecording* outer;
  bool recording;                                 ///< what happens under NoGrad is no step's business
  int exceptions;                                 ///< in flight when the block began
  std::vector<std::shared_ptr<Tape>> tapes = {};  ///< of the inputs and of what is recorded; nothing else may hold them
  bool begun = false;                             ///< something was recorded
  std::size_t branch_start = 0;                   ///< the index of the first node after the last coupling of this block

  /// Something of that tape is in the block.
  void take(const std::shared_ptr<Tape>& tape);
};

}  // namespace palimpsest
