#pragma once

#include <string>
#include <string_view>

namespace palimpsest::datasets {

/// True for UTF-8 without control characters.
bool is_printable(std::string_view text);

/// A file's name for a message or a report: bytes that are no UTF-8, and control characters, as "\xE9".
std::string printable(std::string_view name);

}  // namespace palimpsest::datasets
