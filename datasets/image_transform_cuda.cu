#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/datasets/image_transform_kernels.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;
using datasets::Placement;

/// One value of a finished image: where it is in it, and what of the tables concerns it.
struct Spot {
  int channel;
  int y;
  int x;

  __device__ Spot(const ImageSizes& sizes, Index element) {
    channel = static_cast<int>(element % sizes.channels);
    x = static_cast<int>(element / sizes.channels % sizes.width);
    y = static_cast<int>(element / sizes.channels / sizes.width);
  }
};

__device__ inline float value_at(const ImageSizes& sizes, const Spot& spot, const Placement& placement,
                                 const std::uint8_t* image, const float* values, const float* offsets) {
  const Index row = spot.y + placement.down;
  const Index column = placement.flip != 0 ? placement.right - spot.x : placement.right + spot.x;
  if (row < 0 || row >= sizes.source_height || column < 0 || column >= sizes.source_width) return 0.0F;
  const Index source = (spot.channel * sizes.source_height + row) * sizes.source_width + column;
  const float value = values[spot.channel * 256 + image[source]];
  return offsets != nullptr ? value - offsets[source] : value;
}

/// A row is an image; a thread makes the same values of several images, and so finds out only once which they are.
template <int Width>
__global__ void transform_kernel(Index images, Index groups, ImageSizes sizes, const std::uint8_t* pixels,
                                 const Placement* placements, const float* values, const float* offsets,
                                 float* output) {
  const Index group = row_group();
  if (group >= groups) return;
  const Index image_bytes = sizes.channels * sizes.source_height * sizes.source_width;
  for (Index image = first_row(); image < images; image += row_step()) {
    Pack<float, Width> pack;
    for (int lane = 0; lane < Width; ++lane) {
      pack[lane] = value_at(sizes, Spot(sizes, group * Width + lane), placements[image], pixels + image * image_bytes,
                            values, offsets);
    }
    store(output + (image * groups + group) * Width, pack);
  }
}

}  // namespace

void transform_images(std::int64_t images, const ImageSizes& sizes, const std::uint8_t* pixels,
                      const Placement* placements, const float* values, const float* offsets, float* output) {
  const Index floats = sizes.channels * sizes.height * sizes.width;
  with_width<float>(floats, [&](auto width) {
    const Index groups = floats / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(images, groups)), transform_kernel<width()>, images, groups, sizes,
                      pixels, placements, values, offsets, output);
  });
}

}  // namespace palimpsest::kernels::gpu
