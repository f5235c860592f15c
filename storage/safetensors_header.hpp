#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <palimpsest/storage/safetensors.hpp>

namespace palimpsest::storage {

/// The header of a file: its JSON, and what is wrong with it.
struct Header {
  std::vector<StoredTensor> tensors = {};
  Metadata metadata = {};
  std::string offence = "";  ///< the first; empty for a header that the format allows
};

inline constexpr std::string_view metadata_key = "__metadata__";

/// Reads the JSON. The tensors are in the order of their places.
Header parse_header(const std::string& text, std::uint64_t data_bytes);

/// Gives tensors their places, in this order, and returns the JSON, padded to a multiple of 8 bytes; the metadata come
/// first. Throws ValueError for two of one name, and for more elements than can be counted.
std::string header_text(std::vector<StoredTensor>& tensors, const Metadata& metadata);

}  // namespace palimpsest::storage
