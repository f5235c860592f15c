#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest {

/// An op whose result nobody has read yet. It is recorded when somebody does, as if it had been when it was deferred:
/// inputs are held until then. An op that can do the deferred one's work while it loads its own operand takes it
/// instead (take_deferred), and the result between the two never exists.
struct Deferred {
  std::unique_ptr<Op> op;
  std::vector<Tensor> inputs;
  std::vector<std::uint64_t> versions;  ///< of the inputs' bytes
  std::shared_ptr<const BlockInfo> block;
  std::shared_ptr<Tape> tape;  ///< once taken: nothing else may hold the step any more
};

/// Like apply_single(), but the op runs when its result is first read: what it throws then (OutOfMemory, say) comes out
/// of that reading. Its begin() runs now. Where nothing is recorded this is apply_single(). Throws StateError for an op
/// with several outputs or a coupling, whose place among the others counts.
Tensor defer(std::unique_ptr<Op> op, std::vector<Tensor> inputs);

/// The op that x waits for; null if x has been computed.
Op* deferred_op(const Tensor& x);

/// Takes over the op that x waits for, and x: the caller does its work as part of an op of its own. Null, and x stays
/// what it is, unless x is deferred in the block that is being recorded and the caller has the only tensor that refers
/// to it. Throws StateError if an input was changed in place since.
std::unique_ptr<Deferred> take_deferred(Tensor& x);

}  // namespace palimpsest
