#pragma once

// The device under test. Suites that hold for any device make their tensors here, so that one environment variable runs
// them on another one.

#include <cstddef>
#include <vector>

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/core/allocator.hpp>

namespace palimpsest::test {

/// The device that the environment variable PALIMPSEST_TEST_DEVICE names: `cpu` (the default) or `cuda`. Throws
/// ValueError for anything else.
Device device();

/// The meta device that stands for it.
inline Device meta_device() { return meta_of(device()); }

/// True if kernels of that device run on the CPU, one thread after the other (tests/cuda_emulator): some thousand times
/// slower than a card, so that long tests take less of the same there.
bool emulated();

/// Tensors on the device under test.
template <class T>
Tensor from_vector(const Shape& shape, const std::vector<T>& values, Tag tag = Tag::Activation) {
  return Tensor::from_vector(shape, values, device(), tag);
}
inline Tensor zeros(const Shape& shape, Dtype dtype = Dtype::Float32, Tag tag = Tag::Activation) {
  return Tensor::zeros(shape, dtype, device(), tag);
}

/// The allocator of the device under test.
inline Allocator& test_allocator() { return allocator(device()); }
inline std::size_t live_bytes() { return test_allocator().stats().live; }

}  // namespace palimpsest::test
