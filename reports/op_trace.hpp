#pragma once

#include <string>

#include <palimpsest/memory/planner/step_trace.hpp>

namespace palimpsest::reports {

/// A step in Chrome's trace event format, which Perfetto and chrome://tracing read: a complete event for every run of
/// an op with its block, phase, operations, bytes and shapes, counters of the live bytes by tag, and a mark at the
/// peak. Times are microseconds of the host; on CUDA, where the host only launches, they are not the card's.
std::string op_trace(const memory::StepTrace& record, const std::string& title);

}  // namespace palimpsest::reports
