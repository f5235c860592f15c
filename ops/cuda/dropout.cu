#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/ops/kernels/dropout.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

/// A thread draws one counter's four words, and so decides on four elements.
template <class T>
__global__ void dropout_kernel(Index count, const T* x, T* y, double probability, T scale, std::uint64_t seed,
                               std::uint64_t offset, bool accumulate) {
  for (Index four = first_item(); four * 4 < count; four += item_step()) {
    const auto words = philox(seed, offset + static_cast<std::uint64_t>(four));
    for (int word = 0; word < 4; ++word) {
      const Index i = four * 4 + word;
      if (i >= count) return;
      const T value = static_cast<double>(unit_float(words[word])) >= probability ? x[i] * scale : T{0};
      y[i] = accumulate ? y[i] + value : value;
    }
  }
}

}  // namespace

template <class T>
void dropout(std::int64_t count, const T* x, T* y, double probability, std::uint64_t seed, std::uint64_t offset,
             bool accumulate) {
  const T scale = static_cast<T>(1.0 / (1.0 - probability));
  PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(ceil_div(count, 4))), dropout_kernel<T>, count, x, y, probability,
                    scale, seed, offset, accumulate);
}

template void dropout(std::int64_t, const float*, float*, double, std::uint64_t, std::uint64_t, bool);
template void dropout(std::int64_t, const double*, double*, double, std::uint64_t, std::uint64_t, bool);

}  // namespace palimpsest::kernels::gpu
