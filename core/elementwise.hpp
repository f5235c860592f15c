#pragma once

#include <cstdint>

#include "core/types.hpp"

namespace palimpsest {

/// to[i] += from[i] for `count` elements of a floating dtype on one device. Deterministic. On Meta does nothing.
/// Throws DtypeError, DeviceError.
void accumulate(void* to, const void* from, std::int64_t count, Dtype dtype, Device device);

}  // namespace palimpsest
