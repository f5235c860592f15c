#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/concat.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

std::int64_t total_of(std::int64_t count, const std::int64_t* channels) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += channels[i];
  return total;
}

// Joined rows are handled in tiles that stay in cache while the narrow strips that make them up come and go. A strip
// touches little of each row, which defeats the hardware's prefetcher, so a tile is asked for in one sweep before.
template <class T, class Body>
void parallel_tiles(std::int64_t rows, std::int64_t total, const T* joined, const Body& body) {
  parallel_blocks(rows, larger(16, 2 * task_elements / larger(1, total)), [&](std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t line = 64 / sizeof(T);
    for (std::int64_t i = begin * total; i < end * total; i += line) __builtin_prefetch(joined + i);
    body(begin, end);
  });
}

}  // namespace

template <class T>
void concat_gather(std::int64_t rows, std::int64_t count, const T* const* inputs, const std::int64_t* channels, T* y) {
  const std::int64_t total = total_of(count, channels);
  parallel_tiles(rows, total, y, [&](std::int64_t begin, std::int64_t end) {
    T* to = y + begin * total;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t width = channels[i];
      if (width > 0) move_rows<false>(end - begin, width, inputs[i] + begin * width, width, to, total);
      to += width;
    }
  });
}

template <class T>
void concat_scatter(std::int64_t rows, std::int64_t count, const T* dy, T* const* outputs, const std::int64_t* channels,
                    const bool* accumulate) {
  const std::int64_t total = total_of(count, channels);
  parallel_tiles(rows, total, dy, [&](std::int64_t begin, std::int64_t end) {
    const T* from = dy + begin * total;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t width = channels[i];
      if (outputs[i] != nullptr && width > 0) {
        T* to = outputs[i] + begin * width;
        accumulate[i] ? move_rows<true>(end - begin, width, from, total, to, width)
                      : move_rows<false>(end - begin, width, from, total, to, width);
      }
      from += width;
    }
  });
}

PALIMPSEST_CONCAT_KERNELS(float)
PALIMPSEST_CONCAT_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
