#pragma once

#include <cstdint>

#include <palimpsest/core/error.hpp>

namespace palimpsest::nn {

/// Checks what the plans of residual networks have in common: stages with units and filters, channels, classes. Throws
/// ValueError, beginning with `name`.
template <class Options>
void check_stages(const char* name, const Options& spec) {
  const auto require = [name](bool met, const char* what) {
    if (!met) throw ValueError(concat_text(name, ": ", what));
  };
  require(!spec.units.empty() && spec.units.size() == spec.filters.size(),
          "needs as many filters as stages, and a stage");
  for (const std::int64_t units : spec.units) require(units >= 1, "a stage needs at least one unit");
  for (const std::int64_t filters : spec.filters) require(filters >= 1, "numbers of filters must be positive");
  require(spec.stem_channels >= 1 && spec.image_channels >= 1, "numbers of channels must be positive");
  require(spec.classes >= 2, "needs at least two classes");
}

}  // namespace palimpsest::nn
