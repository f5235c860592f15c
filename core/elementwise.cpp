#include <palimpsest/core/elementwise.hpp>

#include <algorithm>

#include <palimpsest/core/kernel.hpp>
#include <palimpsest/core/parallel.hpp>

namespace palimpsest {
namespace {

/// Calls body(first, last) for chunks of [0, count).
template <class Body>
void in_chunks(std::int64_t count, const Body& body) {
  constexpr std::int64_t chunk = 1 << 15;
  parallel_for((count + chunk - 1) / chunk,
               [&](std::int64_t task) { body(task * chunk, std::min(count, (task + 1) * chunk)); });
}

}  // namespace

void accumulate(void* to, const void* from, std::int64_t count, Dtype dtype, Device device) {
  if (is_meta(device)) return;
  with_float(dtype, "accumulate", [&](auto zero) {
    using T = decltype(zero);
    T* const destination = static_cast<T*>(to);
    const T* const source = static_cast<const T*>(from);
    if constexpr (compiled_for_cuda) {
      if (device == Device::Cuda) return cuda::accumulate<T>(destination, source, count);
    }
    in_chunks(count, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) destination[i] += source[i];
    });
  });
}

void fill(void* to, double value, std::int64_t count, Dtype dtype, Device device) {
  if (is_meta(device)) return;
  with_float(dtype, "fill", [&](auto zero) {
    using T = decltype(zero);
    T* const destination = static_cast<T*>(to);
    const T number = static_cast<T>(value);
    if constexpr (compiled_for_cuda) {
      if (device == Device::Cuda) return cuda::fill<T>(destination, number, count);
    }
    in_chunks(count, [=](std::int64_t first, std::int64_t last) {
      std::fill(destination + first, destination + last, number);
    });
  });
}

}  // namespace palimpsest
