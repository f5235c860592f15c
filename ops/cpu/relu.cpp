#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/relu.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

template <class T>
inline void rectify(std::int64_t count, const T* x, T* y) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) y[i] = x[i] <= 0 ? 0 : x[i];
}

template <bool accumulate, class T>
inline void mask_gradient(std::int64_t count, const T* y, const T* dy, T* dx) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const T passing = dy[i];  // loaded unconditionally: a conditional load would be a slow masked one
    const T gradient = y[i] > 0 ? passing : 0;
    dx[i] = accumulate ? dx[i] + gradient : gradient;
  }
}

}  // namespace

template <class T>
void relu_forward(std::int64_t count, const T* x, T* y) {
  write_elements(count, Output<T>(y, count, x == y),
                 [&](std::int64_t offset, std::int64_t span, T* to) { rectify(span, x + offset, to); });
}

template <class T>
void relu_backward(std::int64_t count, const T* y, const T* dy, T* dx, bool accumulate) {
  const Output<T> output(dx, count, accumulate || dx == dy || dx == y);
  write_elements(count, output, [&](std::int64_t offset, std::int64_t span, T* to) {
    accumulate ? mask_gradient<true>(span, y + offset, dy + offset, to)
               : mask_gradient<false>(span, y + offset, dy + offset, to);
  });
}

#define INSTANTIATE(T)                                    \
  template void relu_forward(std::int64_t, const T*, T*); \
  template void relu_backward(std::int64_t, const T*, const T*, T*, bool);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
