#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/activation.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

template <class Function, class T>
inline void map_values(Function function, std::int64_t count, const T* x, T* y) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) y[i] = function.value(x[i]);
}

template <bool accumulate, class Function, class T>
inline void map_gradients(Function function, std::int64_t count, const T* kept, const T* dy, T* dx) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const T upstream = dy[i];  // loaded unconditionally: a conditional load would be a slow masked one
    const T gradient = function.gradient(kept[i], upstream);
    dx[i] = accumulate ? dx[i] + gradient : gradient;
  }
}

}  // namespace

template <class Function, class T>
void activate(Function function, std::int64_t count, const T* x, T* y) {
  write_elements(count, Output<T>(y, count, x == y),
                 [&](std::int64_t offset, std::int64_t span, T* to) { map_values(function, span, x + offset, to); });
}

template <class Function, class T>
void activate_backward(Function function, std::int64_t count, const T* kept, const T* dy, T* dx, bool accumulate) {
  const Output<T> output(dx, count, accumulate || dx == dy || dx == kept);
  write_elements(count, output, [&](std::int64_t offset, std::int64_t span, T* to) {
    accumulate ? map_gradients<true>(function, span, kept + offset, dy + offset, to)
               : map_gradients<false>(function, span, kept + offset, dy + offset, to);
  });
}

PALIMPSEST_ACTIVATIONS(PALIMPSEST_ACTIVATION_KERNELS)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
