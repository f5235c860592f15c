#pragma once

#include <cstddef>
#include <cstdint>
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
  std::size_t marked = 0;                         ///< couplings of this block with a mark (BlockInfo::marks) so far
  std::size_t first_node = 0;                     ///< the index of the first node that can be recorded in it
  std::uint64_t call = 0;  ///< the number of the outermost model's call around; 0: outside of all

  /// Something of that tape is in the block.
  void take(const std::shared_ptr<Tape>& tape);

  /// This block or the innermost around it that has a policy; null for none.
  const BlockRecording* with_policy() const {
    const BlockRecording* recording = this;
    while (recording != nullptr && !recording->has_policy()) recording = recording->outer;
    return recording;
  }
  /// The number of blocks around it that have a policy of their own, but for one that plans the whole step.
  int depth() const {
    int blocks = 0;
    for (const BlockRecording* around = outer; around != nullptr; around = around->outer) {
      if (around->has_policy() && !around->block->policy->covers_the_rest()) ++blocks;
    }
    return blocks;
  }
  /// This block and those around it that have a policy of their own, models not among them.
  int blocks() const {
    int count = 0;
    for (const BlockRecording* around = this; around != nullptr; around = around->outer) count += around->is_block();
    return count;
  }
  /// True for a block with a policy that is not a model.
  bool is_block() const { return has_policy() && !block->model; }
  /// True for a model, which has a block only while a plan covers it.
  bool is_model() const { return block == nullptr || block->model; }
  bool has_policy() const { return block != nullptr && block->policy != nullptr; }
};

/// The recording of this thread's innermost block; null outside every block.
BlockRecording* recording_of_block();
/// The recording of the outermost block or model; null outside all.
BlockRecording* outermost_recording();
/// The innermost block; null outside every block.
std::shared_ptr<const BlockInfo> current_block();

}  // namespace palimpsest
