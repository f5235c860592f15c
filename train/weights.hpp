#pragma once

#include <optional>

#include <palimpsest/storage/weights.hpp>
#include <palimpsest/train/options.hpp>

namespace palimpsest::train {

/// Reads Options::weights into a model, as storage::load_weights() does; none if there is no such file to read. Throws
/// what that throws, and ValueError for patterns without a file.
std::optional<storage::LoadReport> load_weights(const nn::Module& model, const Options& options);

/// The same for the task's model without making its tensors: tells at once whether the file fits.
std::optional<storage::LoadReport> check_weights(const Task& task, const Options& options);

}  // namespace palimpsest::train
