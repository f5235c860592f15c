#include <palimpsest/ops/cpu/conv2d_weight.hpp>
#include <palimpsest/ops/cpu/conv2d_winograd_weight.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {

template <class T>
void conv2d_grad_weight(const Conv2dGeometry& g, const T* x, const T* dy, T* dw, bool accumulate, T* workspace) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (winograd_weight(g, sizeof(T))) return winograd_grad_weight(g, x, dy, dw, accumulate, workspace);
  }
  const WeightGradient<T> p = make_problem(g, x, dy);
  const WeightGradientSplit split = split_weight_gradient(g);
  const Index scalar_channels = scalars(p);
  const Index all_bands = bands(p);
  parallel_for(split.chunks * split.groups, [&](Index task) {
    alignas(64) T padded[padded_bytes / sizeof(T)];
    const Index chunk = task / split.groups;
    const Range group = even_part(scalar_channels, task % split.groups, split.groups);
    const Range mine = even_part(all_bands, chunk, split.chunks);
    T* total = workspace + chunk * split.partial;
    // A chunk without a band still has to overwrite its sum.
    if (mine.size() == 0) add_band(p, {{0, 0}, {0, 0}, {0, 0}}, group, total, true, padded);
    for (Index band = mine.begin; band < mine.end; ++band) {
      add_band(p, band_at(p, band), group, total, band == mine.begin, padded);
    }
  });
  reduce_chunks(p, workspace, split.partial, split.chunks, dw, accumulate);
}

template void conv2d_grad_weight<float>(const Conv2dGeometry&, const float*, const float*, float*, bool, float*);
template void conv2d_grad_weight<double>(const Conv2dGeometry&, const double*, const double*, double*, bool, double*);

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
