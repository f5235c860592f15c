#pragma once

#include <cstddef>
#include <cstdint>

namespace palimpsest::ops {

/// How CUDA multiplies matrices of float32: in float32, or with the factors rounded to TF32 (10 bits of mantissa) for
/// the tensor cores, sums still in float32. float64 and the CPU know no difference.
enum class Precision : std::uint8_t { Float32, Tf32 };

/// How convolutions and linear layers are computed on CUDA. The CPU needs none of it.
struct ProductOptions {
  Precision precision = Precision::Float32;
  /// A convolution copies the pixels that each output sees into columns, for a chunk of the images at a time: as many
  /// as fit so many bytes, though one at least. The bound is part of what fixes the bits of a weight gradient, which
  /// is summed chunk by chunk.
  std::size_t column_bytes = std::size_t{32} << 20;
};

}  // namespace palimpsest::ops
