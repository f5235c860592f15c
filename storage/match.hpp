#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <palimpsest/core/shape.hpp>
#include <palimpsest/storage/weights.hpp>

namespace palimpsest::storage {

/// The tensors of a file that belong to tensors of a program.
struct Match {
  std::vector<std::pair<const Tensor*, const StoredTensor*>> pairs;
  LoadReport report;
};

/// Finds the pairs, strictly, as load_weights() says; nothing of the data is read. Throws DataError, listing all that
/// does not fit, ValueError for a pattern that matches nothing.
Match match_tensors(const SafetensorsReader& reader, const std::vector<nn::NamedTensor>& tensors,
                    const LoadOptions& options);

std::vector<std::int64_t> extents_of(const Shape& shape);

}  // namespace palimpsest::storage
