#include "ops/cpu_rows.hpp"
#include "ops/relu_kernels.hpp"

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

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
  parallel_elements(count, [&](std::int64_t begin, std::int64_t end) {
#pragma GCC ivdep
    for (std::int64_t i = begin; i < end; ++i) y[i] = x[i] <= 0 ? 0 : x[i];
  });
}

template <class T>
void relu_backward(std::int64_t count, const T* y, const T* dy, T* dx, bool accumulate) {
  parallel_elements(count, [&](std::int64_t begin, std::int64_t end) {
    accumulate ? mask_gradient<true>(end - begin, y + begin, dy + begin, dx + begin)
               : mask_gradient<false>(end - begin, y + begin, dy + begin, dx + begin);
  });
}

#define INSTANTIATE(T)                                    \
  template void relu_forward(std::int64_t, const T*, T*); \
  template void relu_backward(std::int64_t, const T*, const T*, T*, bool);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
