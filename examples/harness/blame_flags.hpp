#pragma once

#include <palimpsest/core/error.hpp>
#include "examples/harness/command_line.hpp"

namespace palimpsest::harness {

/// Runs `run` and returns its result; what it throws because of the flags (ValueError, ShapeError) leaves as a
/// UsageError.
template <class Run>
auto blame_flags(const Run& run) {
  try {
    return run();
  } catch (const ValueError& error) {
    throw UsageError(error.what());
  } catch (const ShapeError& error) {
    throw UsageError(error.what());
  }
}

}  // namespace palimpsest::harness
