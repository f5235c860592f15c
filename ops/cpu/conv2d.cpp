#include <palimpsest/ops/cpu/conv2d_convolve.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {

template <class T>
void conv2d_forward(const Conv2dGeometry& g, const T* x, const T* w, T* y, T* workspace) {
  convolve(forward_problem(g, x, y, workspace), forward_weights(g, w));
}

template <class T>
void conv2d_grad_input(const Conv2dGeometry& g, const T* dy, const T* w, T* dx, bool accumulate, T* workspace) {
  for_each_phase(g, dy, w, dx, accumulate, workspace,
                 [](const Problem<T>& p, const WeightView<T>& view) { convolve(p, view); });
}

template void conv2d_forward<float>(const Conv2dGeometry&, const float*, const float*, float*, float*);
template void conv2d_forward<double>(const Conv2dGeometry&, const double*, const double*, double*, double*);
template void conv2d_grad_input<float>(const Conv2dGeometry&, const float*, const float*, float*, bool, float*);
template void conv2d_grad_input<double>(const Conv2dGeometry&, const double*, const double*, double*, bool, double*);

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
