#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/memory/offload.hpp>

namespace palimpsest::memory {

/// Keep everything that backward reads.
PolicyPtr store_all();
/// The same, set for a whole model also of what is outside every block, as a plan is (Policy::covers_the_rest).
PolicyPtr store_all_of_model();

/// Shared storage (Pleiss et al. 2017): what memory-bound ops make (concat, batch normalisation, ReLU) lives in arenas,
/// concatenations in one and the rest in another, and is computed again in backward; what convolutions make is kept.
/// Outputs smaller than their op's inputs (pooling, sums) are kept as well, and one in eight of a chain of cheap ops.
PolicyPtr shared();

/// The rule of shared(): the arena of a value of `bytes` bytes that an op of this cost makes from `streams` inputs,
/// parameters left out, of `input_bytes` together. Nullopt: the value is kept.
std::optional<int> shared_arena(Cost cost, std::size_t bytes, std::size_t input_bytes, std::size_t streams);

/// Checkpointing (Chen et al. 2016): of a block, only the inputs are kept; everything inside is computed again.
PolicyPtr checkpoint();

/// Reversible reconstruction (Gomez et al. 2017): the stream that enters a coupling is solved from the stream that
/// leaves it, and what the coupling's branch made inside is computed again; that one run serves both. Other blocks keep
/// everything. Exact where every coupling is on a grid (see ops::couple), otherwise up to rounding.
PolicyPtr reversible();

/// Offloading: what backward reads leaves the device's memory when forward has no more use for it and comes back ahead
/// of need, from pinned host memory on CUDA and from a file in the options' folder on the CPU. Nothing is computed
/// again. Optional outputs (Value::optional) are never made, and values of fewer than `at_least` bytes stay.
PolicyPtr offload();
PolicyPtr offload(const OffloadOptions& options);

/// True if the policy, or one that it is composed of, moves values out of the device's memory (Policy::offloads).
bool offloads(const Policy& policy);

/// Two policies at once, called "outer+inner".
///
/// When a value is made, `inner` decides first, and what it would keep is `outer`'s; so is what it would put into an
/// arena where the op may have the memory of an input that comes back for it alone. checkpoint+shared replays a block,
/// and what its memory-bound ops make lives in arenas in both runs: an arena belongs to the recipe, whichever of the
/// two has chosen that, and arenas of the same number are the same storage.
///
/// Offers go to `outer`, and to `inner` where `outer` has nothing to say:
/// - Inside a branch, what `inner` has given a recipe when it was made is not offered: under reversible+shared it
///   stays in its arena.
/// - For a value that can be solved, the answer replaces the recipe it was made with, `inner`'s too: solving takes
///   neither storage elsewhere nor a run of its own.
/// - A value that enters a block and is to be kept, because the block is replayed from it, is moved elsewhere instead
///   if one of the two moves such values: if its recipe for it (Policy::decide) runs no op and reads no other value, as
///   fetch() does. The block's replay then gets it from there. So checkpoint+offload leaves block inputs offloaded, and
///   offload+checkpoint is checkpointing whose checkpoints are offloaded. A recipe that computes does not do: replaying
///   a block would take replaying those before it, so under checkpoint+shared an input stays, and leaves the arena that
///   it may be in. A value that the policy of its own block keeps, or that was made outside every block, stays as well.
///
/// Each of the two must find something to act on in a step (Policy::parts).
PolicyPtr compose(PolicyPtr outer, PolicyPtr inner);

/// All policies and their compositions that make a difference.
std::vector<PolicyPtr> combinations(const OffloadOptions& options = {});

/// The names of the single policies, as a text has them (memory/request.hpp): "store-all", "shared", "checkpoint",
/// "reversible", "offload".
std::vector<std::string_view> names();

}  // namespace palimpsest::memory
