#pragma once

#include <cstddef>
#include <string>

#include <palimpsest/train/options.hpp>

namespace palimpsest::reports {

/// Advice for a run that has run out of memory in training, for the end of the error message: the policies whose
/// forecast is below `limit` bytes (0: not known; then below that of the run itself), and the least budget that can be
/// kept to; or, where nothing helps, the least bytes that the batch takes.
std::string memory_advice(const train::Task& task, const train::Options& options, std::size_t limit);

/// The same about a run whose evaluation has run out of memory. The policy does not matter to that, the batch does: the
/// largest half, quarter, ... of it whose evaluation is predicted to fit.
std::string evaluation_advice(const train::Task& task, const train::Options& options, std::size_t limit);

/// A line about a run whose steps need `peak` bytes, more than they would under `store-all`, with the thriftiest of the
/// policies that move nothing elsewhere; empty for any other.
std::string thrift_advice(const train::Task& task, const train::Options& options, std::size_t peak);

/// The single policies that have something to act on in the task's model, for the end of the message of an
/// IdlePolicyError.
std::string policy_advice(const train::Task& task, const train::Options& options);

/// Bytes of the device, or of its allocator's limit, that are not in use.
std::size_t left_on(Device device);

}  // namespace palimpsest::reports
