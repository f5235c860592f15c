#pragma once

// A memory policy as a user of the library writes one: in a file of its own, with public headers alone.
// docs/adding-a-policy.md walks through it.

#include <cstddef>
#include <limits>

#include <palimpsest/autograd/policy.hpp>

namespace user {

/// The results of convolutions and matrix products go to host memory outside the framework's allocator when forward has
/// no more use for them, and come back for backward; those of memory-bound ops are computed again. Exact.
/// `budget`: bytes that may lie outside at a time. A step that needs more fails with OutOfMemory.
palimpsest::PolicyPtr offload(std::size_t budget = std::numeric_limits<std::size_t>::max());

/// Keeps what every other recorded op makes and computes the rest again. Exact.
palimpsest::PolicyPtr keep_every_other();

}  // namespace user
