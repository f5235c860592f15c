#pragma once

// CPU kernels that join and part channels of channels-last tensors, T = float and double. No argument may overlap
// another.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

PALIMPSEST_KERNELS(

    /// Joins `count` inputs along the channels. inputs[i]: rows x channels[i]; y: rows x sum of channels. Inputs
    /// without channels are allowed.
    template <class T> void concat_gather(std::int64_t rows, std::int64_t count, const T* const* inputs,
                                          const std::int64_t* channels, T* y);

    /// The inverse, and the gradient of concat_gather: parts dy, rows x sum of channels, into outputs[i]: rows x
    /// channels[i]. A null output is skipped; outputs[i] is added to where accumulate[i], else overwritten.
    template <class T> void concat_scatter(std::int64_t rows, std::int64_t count, const T* dy, T* const* outputs,
                                           const std::int64_t* channels, const bool* accumulate);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_CONCAT_KERNELS(T)                                                                 \
  template void concat_gather(std::int64_t, std::int64_t, const T* const*, const std::int64_t*, T*); \
  template void concat_scatter(std::int64_t, std::int64_t, const T*, T* const*, const std::int64_t*, const bool*);

}  // namespace palimpsest::kernels
