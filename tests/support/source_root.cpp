#include "tests/support/source_root.hpp"

namespace palimpsest::test {

std::string source_root() { return PALIMPSEST_SOURCE_ROOT; }

}  // namespace palimpsest::test
