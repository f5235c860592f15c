#pragma once

#include <cstdint>
#include <string>
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

/// Finds the pairs, strictly, as load_weights() says; nothing of the data is read. Throws MisfitError
/// for what does not fit, ValueError for a pattern that matches nothing.
Match match_tensors(const SafetensorsReader& reader, const std::vector<nn::NamedTensor>& tensors,
                    const LoadOptions& options);

/// The names that these tensors have in a file, in this order. Throws ValueError for Names::Torchvision of another
/// model than it has.
std::vector<std::string> names_in_file(const std::vector<nn::NamedTensor>& tensors, Names names);

std::vector<std::int64_t> extents_of(const Shape& shape);

}  // namespace palimpsest::storage
