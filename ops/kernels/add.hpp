#pragma once

// CPU kernels of sums, elementwise over `count` contiguous elements, T = float and double.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

PALIMPSEST_KERNELS(

    /// out = a + b. out may be a, b or both.
    template <class T> void add(std::int64_t count, const T* a, const T* b, T* out);

    /// destination += source. They may be the same.
    template <class T> void accumulate(std::int64_t count, const T* source, T* destination);

    /// destination = value.
    template <class T> void fill(std::int64_t count, T value, T* destination);)

}  // namespace palimpsest::kernels
