#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/pad_channels.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {

template <class T>
void pad_channels_forward(std::int64_t rows, std::int64_t channels, std::int64_t before, std::int64_t after, const T* x,
                          T* y) {
  const std::int64_t total = before + channels + after;
  parallel_blocks(rows, larger(16, task_elements / total), [&](std::int64_t begin, std::int64_t end) {
    // Zeros the tile in one sweep: it then lies in cache for the strip that is copied over the middle.
    for (std::int64_t i = begin * total; i < end * total; ++i) y[i] = 0;
    move_rows<false>(end - begin, channels, x + begin * channels, channels, y + begin * total + before, total);
  });
}

template <class T>
void pad_channels_backward(std::int64_t rows, std::int64_t channels, std::int64_t before, std::int64_t after,
                           const T* dy, T* dx, bool accumulate) {
  const std::int64_t total = before + channels + after;
  parallel_blocks(rows, larger(16, task_elements / total), [&](std::int64_t begin, std::int64_t end) {
    const T* from = dy + begin * total + before;
    T* to = dx + begin * channels;
    accumulate ? move_rows<true>(end - begin, channels, from, total, to, channels)
               : move_rows<false>(end - begin, channels, from, total, to, channels);
  });
}

PALIMPSEST_PAD_CHANNELS_KERNELS(float)
PALIMPSEST_PAD_CHANNELS_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
