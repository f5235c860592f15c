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
};

}  // namespace palimpsest
