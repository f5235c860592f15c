#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/pad_channels.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

/// Extents are counted in packs.
template <int Width, class T>
__global__ void forward_kernel(Index rows, Index groups, Index before, Index after, const T* x, T* y) {
  const Index all = before + groups + after;
  const Index group = row_group();
  if (group >= all) return;
  const Index source = group - before;
  const bool inside = source >= 0 && source < groups;
  for (Index row = first_row(); row < rows; row += row_step()) {
    Pack<T, Width> pack = {};
    if (inside) pack = load<Width>(x + (row * groups + source) * Width);
    store(y + (row * all + group) * Width, pack);
  }
}

template <int Width, class T>
__global__ void backward_kernel(Index rows, Index groups, Index before, Index after, const T* dy, T* dx,
                                bool accumulate) {
  const Index all = before + groups + after;
  const Index group = row_group();
  if (group >= groups) return;
  for (Index row = first_row(); row < rows; row += row_step()) {
    store(dx + (row * groups + group) * Width, load<Width>(dy + (row * all + before + group) * Width), accumulate);
  }
}

/// The pack width that divides all three extents.
template <class T, class Body>
void with_common_width(Index a, Index b, Index c, const Body& body) {
  const Index width = 16 / static_cast<Index>(sizeof(T));
  const bool divisible = a % width == 0 && b % width == 0 && c % width == 0;
  with_width<T>(divisible ? a : Index{1}, body);
}

}  // namespace

template <class T>
void pad_channels_forward(std::int64_t rows, std::int64_t channels, std::int64_t before, std::int64_t after, const T* x,
                          T* y) {
  with_common_width<T>(channels, before, after, [&](auto width) {
    const Index groups = (before + channels + after) / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, groups)), (forward_kernel<width(), T>), rows,
                      channels / width(), before / width(), after / width(), x, y);
  });
}

template <class T>
void pad_channels_backward(std::int64_t rows, std::int64_t channels, std::int64_t before, std::int64_t after,
                           const T* dy, T* dx, bool accumulate) {
  with_common_width<T>(channels, before, after, [&](auto width) {
    const Index groups = channels / width();
    PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, groups)), (backward_kernel<width(), T>), rows, groups,
                      before / width(), after / width(), dy, dx, accumulate);
  });
}

PALIMPSEST_PAD_CHANNELS_KERNELS(float)
PALIMPSEST_PAD_CHANNELS_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
