#pragma once

#include <string>
#include <string_view>

namespace palimpsest::storage {

/// A name out of a file as messages print it, in quotes, on one line, whatever it has, and however long it is.
std::string in_quotes(std::string_view name);

}  // namespace palimpsest::storage
