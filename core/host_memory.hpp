#pragma once

#include <memory>

#include <palimpsest/core/allocator.hpp>

namespace palimpsest {

/// Host memory in one growing range of addresses. Pages are touched when they are taken, so that a training step meets
/// no page fault and what is reserved is what the process holds; huge pages are asked for.
std::unique_ptr<MemorySource> make_host_memory();

}  // namespace palimpsest
