// A few images at a time: their input is normalised into memory that the second-level cache holds, and the convolution,
// its data gradient and its weight gradient go over them there.

#include <palimpsest/ops/kernels/norm_conv.hpp>

#include <palimpsest/ops/cpu/conv2d_convolve.hpp>
#include <palimpsest/ops/cpu/conv2d_weight.hpp>
#include <palimpsest/ops/cpu/conv2d_winograd_weight.hpp>
#include <palimpsest/ops/cpu/norm_conv_tiles.hpp>
#include <palimpsest/ops/cpu/rows.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

/// The same convolution of fewer images.
Conv2dGeometry some_images(Conv2dGeometry g, Index images) {
  g.n = images;
  return g;
}

NormConvGeometry as_rows(const Conv2dGeometry& g, Index parts) {
  return {g.n * g.h_in * g.w_in, g.c_in, g.c_out, parts};
}

/// Calls body(images, whether they are the first) for the units of images that one task goes through.
template <class Body>
void for_each_unit(const Conv2dGeometry& g, const NormConv2dCut& cut, Index chunk, const Body& body) {
  const Range units = even_part(ceil_div(g.n, cut.images), chunk, cut.chunks);
  for (Index unit = units.begin; unit < units.end; ++unit) {
    body(Range{unit * cut.images, smaller(g.n, (unit + 1) * cut.images)}, unit == units.begin);
  }
}

}  // namespace

template <class T>
void norm_conv2d_forward(const Conv2dGeometry& g, Index parts, const NormPart<T>* part, const Normalization<T>& n,
                         const T* w, T* z, T* y, T* workspace) {
  const NormConvGeometry rows = as_rows(g, parts);
  const NormConv2dCut cut = cut_images(g, sizeof(T));
  const Parameters<T> p = collect_parameters(g.c_in, n, workspace);
  T* const packed = workspace + parameter_elements(rows);
  T* const scratch = packed + round_up(packed_elements(g, sizeof(T)), max_lanes);
  const WeightView<T> view = forward_weights(g, w);
  pack(forward_problem(some_images(g, cut.images), y, z, packed), view);
  const Index image = g.h_in * g.w_in;
  parallel_for(cut.chunks, [&](Index chunk) {
    for_each_unit(g, cut, chunk, [&](Range images, bool) {
      T* const to = scratch + chunk * cut.elements;
      load_tile(rows, part, p, {images.begin * image, images.end * image}, {0, g.c_in}, to, g.c_in);
      // Nobody reads it before backward.
      if (y != nullptr) stream(images.size() * image * g.c_in, to, y + images.begin * image * g.c_in);
      convolve_packed(
          forward_problem(some_images(g, images.size()), to, z + images.begin * g.h_out * g.w_out * g.c_out, packed),
          view);
    });
    publish_streams();
  });
}

template <class T>
void norm_conv2d_backward(const Conv2dGeometry& g, Index parts, const NormPart<T>* part, const Normalization<T>& n,
                          const T* w, const T* y, const T* dz, T* dw, bool accumulate, T* sum_dy, T* sum_dy_xhat,
                          T* workspace) {
  constexpr Index most_rows = 64;  // whose sums may be held in T
  const NormConvGeometry rows = as_rows(g, parts);
  const NormConv2dCut cut = cut_images(g, sizeof(T));
  double* const sums = reinterpret_cast<double*>(workspace);  // a chunk: dy, then dy * deviation
  T* const partial = workspace + round_up(cut.chunks * 4 * g.c_in, max_lanes);
  T* const packed = partial + cut.chunks * cut.partial;
  T* const scratch = packed + round_up(packed_gradient_elements(g, sizeof(T)), max_lanes);
  const Parameters<T> p = collect_parameters(g.c_in, n, scratch + cut.chunks * 2 * cut.elements);
  const bool winograd = norm_conv2d_winograd_weight(g, sizeof(T));
  const T* const none = nullptr;
  T* const nowhere = nullptr;
  for_each_phase(some_images(g, cut.images), none, w, nowhere, false, packed,
                 [](const Problem<T>& problem, const WeightView<T>& view) { pack(problem, view); });
  const Index image = g.h_in * g.w_in;
  const Index image_out = g.h_out * g.w_out * g.c_out;
  parallel_for(cut.chunks, [&](Index chunk) {
    alignas(64) T padded[padded_bytes / sizeof(T)];
    T* const dy = scratch + chunk * 2 * cut.elements;
    T* const own_y = dy + cut.elements;
    GradientTile<T> tile = {};
    tile.pitch = g.c_in;
    tile.exact = true;
    tile.sum_dy = sums + chunk * 2 * g.c_in;
    tile.sum_dy_deviation = tile.sum_dy + g.c_in;
    for (Index c = 0; c < 2 * g.c_in; ++c) tile.sum_dy[c] = 0;
    for_each_unit(g, cut, chunk, [&](Range images, bool first) {
      const Conv2dGeometry unit = some_images(g, images.size());
      const T* const dz_unit = dz + images.begin * image_out;
      for_each_phase(unit, dz_unit, w, dy, false, packed,
                     [](const Problem<T>& problem, const WeightView<T>& view) { convolve_packed(problem, view); });
      const Index all_rows = images.size() * image;
      for (Index row = 0; row < all_rows; row += most_rows) {
        tile.rows = smaller(most_rows, all_rows - row);
        tile.dy = dy + row * g.c_in;
        tile.y = own_y + row * g.c_in;
        add_input_gradients(rows, part, p, {0, g.c_in}, images.begin * image + row, tile, y == nullptr);
      }
      if (dw == nullptr) return;
      const T* const y_unit = y != nullptr ? y + images.begin * image * g.c_in : own_y;
      if (winograd) return add_winograd(unit, y_unit, dz_unit, partial + chunk * cut.partial, first);
      const WeightGradient<T> gradient = make_problem(unit, y_unit, dz_unit);
      for (Index band = 0; band < bands(gradient); ++band) {
        add_band(gradient, band_at(gradient, band), {0, scalars(gradient)}, partial + chunk * cut.partial,
                 first && band == 0, padded);
      }
    });
  });
  finish_sums(rows, part, n, p, sums, cut.chunks, sum_dy, sum_dy_xhat);
  if (dw == nullptr) return;
  if (winograd) {
    return reduce_winograd(winograd_weight_problem(g, none, dz), partial, cut.partial, cut.chunks, dw, accumulate);
  }
  reduce_chunks(make_problem(some_images(g, cut.images), none, dz), partial, cut.partial, cut.chunks, dw, accumulate);
}

template <class T>
void norm_conv_correct(Index rows, Index channels, const T* x, const T* mean, const T* correction, T* gradient) {
  for_channel_strips(channels, [&](Index first, Index strip) {
    alignas(64) T means[FoldedRows::max_width];
    alignas(64) T offsets[FoldedRows::max_width];
    alignas(64) T slopes[FoldedRows::max_width];
    const FoldedRows folded = fold_rows(strip, channels);
    repeat(strip, folded.width, mean + first, means);
    repeat(strip, folded.width, correction + first, offsets);
    repeat(strip, folded.width, correction + channels + first, slopes);
    const Output<T> output(gradient + first, rows * channels, true);
    write_spans(rows, strip, channels, output, [&](Index at, Index count, T* to) {
#pragma GCC ivdep
      for (Index i = 0; i < count; ++i) {
        to[i] -= multiply_add(slopes[i], x[first + at + i] - means[i], offsets[i]);
      }
    });
  });
}

#define INSTANTIATE(T)                                                                                          \
  template void norm_conv2d_forward(const Conv2dGeometry&, Index, const NormPart<T>*, const Normalization<T>&,  \
                                    const T*, T*, T*, T*);                                                      \
  template void norm_conv2d_backward(const Conv2dGeometry&, Index, const NormPart<T>*, const Normalization<T>&, \
                                     const T*, const T*, const T*, T*, bool, T*, T*, T*);                       \
  template void norm_conv_correct(Index, Index, const T*, const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
