#pragma once

#include <string>

namespace palimpsest::test {

/// The folder of the sources that the tests were built from.
std::string source_root();

}  // namespace palimpsest::test
