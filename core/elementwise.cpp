#include "core/elementwise.hpp"

#include <algorithm>

#include "core/cuda_runtime.hpp"
#include "core/parallel.hpp"

namespace palimpsest {

void accumulate(void* to, const void* from, std::int64_t count, Dtype dtype, Device device) {
  if (device == Device::Meta) return;
  if (device != Device::Cpu) throw DeviceError(concat_text("[accumulate] has no kernel for ", device));
  with_float(dtype, "accumulate", [&](auto zero) {
    using T = decltype(zero);
    constexpr std::int64_t chunk = 1 << 15;
    T* const destination = static_cast<T*>(to);
    const T* const source = static_cast<const T*>(from);
    parallel_for((count + chunk - 1) / chunk, [=](std::int64_t task) {
      const std::int64_t last = std::min(count, (task + 1) * chunk);
      for (std::int64_t i = task * chunk; i < last; ++i) destination[i] += source[i];
    });
  });
}

}  // namespace palimpsest
