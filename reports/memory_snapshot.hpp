#pragma once

#include <string>

#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::reports {

/// A step as JSON of the structure that PyTorch's torch.cuda.memory._snapshot() returns and its memory_viz page reads
/// (as a pickle: docs/memory.md has the line that makes one): segments with their blocks as they are at the end of the
/// step, and the step's allocations and releases as the trace of device 0, sizes as asked for. An event's category is
/// its tag; its frames name block, op and phase, their line numbers the run, from 0, and -1 between runs.
///
/// Segments are the stretches of addresses that the step has used; what surrounds them is not known. Memory that was
/// there before the step and has not moved since is known by tag only: one block a tag, in a segment of its own behind
/// all others.
std::string memory_snapshot(const memory::StepTrace& record);

}  // namespace palimpsest::reports
