#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/add.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {

template <class T>
void add(std::int64_t count, const T* a, const T* b, T* out) {
  const Output<T> output(out, count, out == a || out == b);
  write_elements(count, output, [&](std::int64_t offset, std::int64_t span, T* to) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < span; ++i) to[i] = a[offset + i] + b[offset + i];
  });
}

template <class T>
void accumulate(std::int64_t count, const T* source, T* destination) {
  add(count, destination, source, destination);
}

template <class T>
void fill(std::int64_t count, T value, T* destination) {
  parallel_elements(count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) destination[i] = value;
  });
}

#define INSTANTIATE(T)                                     \
  template void add(std::int64_t, const T*, const T*, T*); \
  template void accumulate(std::int64_t, const T*, T*);    \
  template void fill(std::int64_t, T, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
