#pragma once

// The kernel that makes a batch of a network's input on CUDA: ImageTransform::apply, to the bit, for placements that
// were drawn on the host.

#include <cstdint>

#include <palimpsest/datasets/image_transform.hpp>

namespace palimpsest::kernels {

/// Sizes of the images of a batch, as they are stored and as the network sees them.
struct ImageSizes {
  std::int64_t channels;
  std::int64_t source_height;
  std::int64_t source_width;
  std::int64_t height;
  std::int64_t width;
};

namespace gpu {
/// pixels: (images, C, h, w). placements: (images). values: (C, 256). offsets: (C, h, w), or null for none. output:
/// (images, H, W, C), aligned to 16 bytes. All in device memory.
void transform_images(std::int64_t images, const ImageSizes& sizes, const std::uint8_t* pixels,
                      const datasets::Placement* placements, const float* values, const float* offsets, float* output);
}  // namespace gpu

}  // namespace palimpsest::kernels
