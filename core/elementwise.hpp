#pragma once

#include <cstdint>

#include <palimpsest/core/types.hpp>

namespace palimpsest {

/// to[i] += from[i] for `count` elements of a floating dtype on one device. Deterministic. Does nothing on a meta
/// device. Throws DtypeError, DeviceError.
void accumulate(void* to, const void* from, std::int64_t count, Dtype dtype, Device device);

/// to[i] = value for `count` elements of a floating dtype. Does nothing on a meta device. Throws DtypeError,
/// DeviceError.
void fill(void* to, double value, std::int64_t count, Dtype dtype, Device device);

namespace cuda {
/// The same on CUDA, where pointers are to device memory. T = float and double.
template <class T>
void accumulate(T* to, const T* from, std::int64_t count);
template <class T>
void fill(T* to, T value, std::int64_t count);
}  // namespace cuda

}  // namespace palimpsest
