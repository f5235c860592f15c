// Convolution as matrix products over chunks of columns. Elements are moved in packs of 16 bytes along the channels.

#include <limits>

#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/cuda/workspace.hpp>
#include <palimpsest/ops/gemm.hpp>
#include <palimpsest/ops/kernels/conv2d_cuda_partition.hpp>

namespace palimpsest::kernels::gpu {
namespace {

namespace plan = gpu_geometry;
using namespace palimpsest::cuda;

/// columns[pixel, r, s, c] = x[pixel's image, i * stride + r - pad, j * stride + s - pad, c], zero outside of x.
/// A thread keeps its place in a row of columns, so that tap and channels are found once, and walks over pixels. Pixels
/// are counted in 32 bits: a division of 64 takes dozens of instructions.
template <int Width, class T>
__global__ void make_columns(Conv2dGeometry g, unsigned pixels, unsigned row_packs, const T* __restrict__ x,
                             T* __restrict__ columns) {
  const Index at = row_group();
  if (at >= row_packs) return;
  const unsigned groups = static_cast<unsigned>(g.c_in) / Width;
  const unsigned tap = static_cast<unsigned>(at) / groups;
  const Index channel = static_cast<Index>(static_cast<unsigned>(at) % groups) * Width;
  const unsigned kernel_w = static_cast<unsigned>(g.kernel_w);
  const Index down = static_cast<Index>(tap / kernel_w) - g.pad_top;
  const Index right = static_cast<Index>(tap % kernel_w) - g.pad_left;
  const unsigned width = static_cast<unsigned>(g.w_out);
  const unsigned height = static_cast<unsigned>(g.h_out);
  for (Index pixel = first_row(); pixel < pixels; pixel += row_step()) {
    const unsigned line = static_cast<unsigned>(pixel) / width;
    const unsigned j = static_cast<unsigned>(pixel) - line * width;
    const unsigned image = line / height;
    const unsigned i = line - image * height;
    const Index h = i * g.stride_h + down;
    const Index w = j * g.stride_w + right;
    Pack<T, Width> pack = {};
    if (h >= 0 && h < g.h_in && w >= 0 && w < g.w_in) {
      pack = load<Width>(x + ((image * g.h_in + h) * g.w_in + w) * g.c_in + channel);
    }
    store(columns + (pixel * row_packs + at) * Width, pack);
  }
}

/// The output that reads a pixel through a tap, along one axis: (pixel + pad - tap) / stride; -1 if none does.
template <bool UnitStride>
__device__ inline int output_of(int origin, int stride, int outputs) {
  if constexpr (!UnitStride) {
    if (origin < 0 || origin % stride != 0) return -1;
    origin /= stride;
  }
  return origin < outputs ? origin : -1;
}

/// The gradient of make_columns: dx[image, h, w, c] (+)= the sum over the taps that have read it, in their order.
/// A thread's row is a pixel of dx.
template <int Width, bool UnitStride, class T>
__global__ void sum_columns(Conv2dGeometry g, unsigned rows, Index groups, const T* __restrict__ columns, T* dx,
                            bool accumulate) {
  const Index group = row_group();
  if (group >= groups) return;
  const unsigned width = static_cast<unsigned>(g.w_in);
  const unsigned height = static_cast<unsigned>(g.h_in);
  const int kernel_h = static_cast<int>(g.kernel_h);
  const int kernel_w = static_cast<int>(g.kernel_w);
  for (Index row = first_row(); row < rows; row += row_step()) {
    const unsigned line = static_cast<unsigned>(row) / width;
    const unsigned image = line / height;
    const int w = static_cast<int>(static_cast<unsigned>(row) - line * width + g.pad_left);
    const int h = static_cast<int>(line - image * height + g.pad_top);
    Pack<T, Width> sum = {};
    for (int r = 0; r < kernel_h; ++r) {
      const int i = output_of<UnitStride>(h - r, static_cast<int>(g.stride_h), static_cast<int>(g.h_out));
      if (i < 0) continue;
      for (int s = 0; s < kernel_w; ++s) {
        const int j = output_of<UnitStride>(w - s, static_cast<int>(g.stride_w), static_cast<int>(g.w_out));
        if (j < 0) continue;
        const Index pixel = (image * g.h_out + i) * g.w_out + j;
        const auto part = load<Width>(columns + ((pixel * kernel_h + r) * kernel_w + s) * g.c_in + group * Width);
        for (int lane = 0; lane < Width; ++lane) sum[lane] += part[lane];
      }
    }
    store(dx + row * g.c_in + group * Width, sum, accumulate);
  }
}

/// mirrored[c, r, s, o] = w[o, R - 1 - r, S - 1 - s, c].
template <class T>
__global__ void mirror_kernel(Conv2dGeometry g, Index count, const T* __restrict__ w, T* __restrict__ mirrored) {
  const Index taps = g.kernel_h * g.kernel_w;
  for (Index i = first_item(); i < count; i += item_step()) {
    const Index o = i % g.c_out;
    const Index tap = i / g.c_out % taps;
    const Index c = i / g.c_out / taps;
    mirrored[i] = w[(o * taps + taps - 1 - tap) * g.c_in + c];
  }
}

/// Calls body(geometry of the chunk, x of the chunk, y of the chunk) for chunks of images in order.
template <class T, class X, class Y, class Body>
void for_each_chunk(const Conv2dGeometry& g, X* x, Y* y, const Body& body) {
  const Index images = is_pointwise(g) ? g.n : plan::chunk_images(g, sizeof(T));
  for (Index first = 0; first < g.n; first += images) {
    Conv2dGeometry chunk = g;
    chunk.n = smaller(images, g.n - first);
    body(chunk, x + first * g.h_in * g.w_in * g.c_in, y + first * plan::output_pixels(g) * g.c_out);
  }
}

/// The quantities that kernels count in 32 bits.
unsigned count_32(Index count) {
  if (count <= std::numeric_limits<std::int32_t>::max()) return static_cast<unsigned>(count);
  throw DeviceError(concat_text("a convolution over ", count, " pixels at once, expected fewer than 2^31"));
}

/// The columns of a chunk of images: made in `room`, or x itself.
template <class T>
const T* columns_of(const Conv2dGeometry& g, const T* x, T* room) {
  if (is_pointwise(g)) return x;
  const unsigned pixels = count_32(g.n * plan::output_pixels(g));
  with_width<T>(g.c_in, [&](auto width) {
    const unsigned row_packs = count_32(plan::row_elements(g) / width());
    PALIMPSEST_LAUNCH(geometry(plan::rows(pixels, row_packs)), (make_columns<width(), T>), g, pixels, row_packs, x,
                      room);
  });
  return room;
}

template <class T>
void sum_columns_of(const Conv2dGeometry& g, const T* columns, T* dx, bool accumulate) {
  const unsigned rows = count_32(g.n * g.h_in * g.w_in);
  with_width<T>(g.c_in, [&](auto width) {
    const Index groups = g.c_in / width();
    const auto launch = geometry(plan::rows(rows, groups));
    if (g.stride_h == 1 && g.stride_w == 1) {
      PALIMPSEST_LAUNCH(launch, (sum_columns<width(), true, T>), g, rows, groups, columns, dx, accumulate);
    } else {
      PALIMPSEST_LAUNCH(launch, (sum_columns<width(), false, T>), g, rows, groups, columns, dx, accumulate);
    }
  });
}

template <class T>
void convolve(const Conv2dGeometry& g, const T* x, const T* w, T* y, bool accumulate, T* products, T* room) {
  const Index k = plan::row_elements(g);
  for_each_chunk<T>(g, x, y, [&](const Conv2dGeometry& chunk, const T* from, T* to) {
    const T* const columns = columns_of(chunk, from, room);
    cuda::gemm<T>(chunk.n * plan::output_pixels(g), g.c_out, k, {columns, k}, {w, k, true}, to, g.c_out, accumulate,
                  g.products.precision, products);
  });
}

}  // namespace

template <class T>
void conv2d_forward(const Conv2dGeometry& g, const T* x, const T* w, T* y, T* workspace) {
  const Workspace<T> own(workspace);
  convolve(g, x, w, y, false, own.products, own.rest);
}

template <class T>
void conv2d_grad_input(const Conv2dGeometry& g, const T* dy, const T* w, T* dx, bool accumulate, T* workspace) {
  const Workspace<T> own(workspace);
  const Index k = plan::row_elements(g);
  if (plan::prefers_mirrored(g)) {
    T* const mirrored = own.rest;
    T* const room = mirrored + plan::mirrored_kernel_bytes(g, sizeof(T)) / static_cast<Index>(sizeof(T));
    PALIMPSEST_LAUNCH(geometry(plan::linear(g.c_out * k)), mirror_kernel<T>, g, g.c_out * k, w, mirrored);
    return convolve<T>(plan::mirrored(g), dy, mirrored, dx, accumulate, own.products, room);
  }
  for_each_chunk<T>(g, dx, dy, [&](const Conv2dGeometry& chunk, T* to, const T* from) {
    const bool direct = is_pointwise(g);
    cuda::gemm<T>(chunk.n * plan::output_pixels(g), k, g.c_out, {from, g.c_out}, {w, k}, direct ? to : own.rest, k,
                  direct && accumulate, g.products.precision, own.products);
    if (direct) return;
    sum_columns_of(chunk, own.rest, to, accumulate);
  });
}

template <class T>
void conv2d_grad_weight(const Conv2dGeometry& g, const T* x, const T* dy, T* dw, bool accumulate, T* workspace) {
  const Workspace<T> own(workspace);
  const Index k = plan::row_elements(g);
  bool add = accumulate;
  for_each_chunk<T>(g, x, dy, [&](const Conv2dGeometry& chunk, const T* from, const T* gradient) {
    const T* const columns = columns_of(chunk, from, own.rest);
    cuda::gemm<T>(g.c_out, k, chunk.n * plan::output_pixels(g), {gradient, g.c_out, true}, {columns, k}, dw, k, add,
                  g.products.precision, own.products);
    add = true;
  });
}

#define PALIMPSEST_INSTANTIATE(T)                                                           \
  template void conv2d_forward(const Conv2dGeometry&, const T*, const T*, T*, T*);          \
  template void conv2d_grad_input(const Conv2dGeometry&, const T*, const T*, T*, bool, T*); \
  template void conv2d_grad_weight(const Conv2dGeometry&, const T*, const T*, T*, bool, T*);
PALIMPSEST_INSTANTIATE(float)
PALIMPSEST_INSTANTIATE(double)

}  // namespace palimpsest::kernels::gpu
