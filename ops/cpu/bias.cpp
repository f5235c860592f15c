#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/bias.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

template <class T>
inline void add_span(std::int64_t count, const T* __restrict from, T* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
}

}  // namespace

template <class T>
void add_bias(std::int64_t rows, std::int64_t channels, const T* bias, T* y) {
  for_channel_strips(channels, [&](std::int64_t first, std::int64_t strip) {
    alignas(64) T repeated[FoldedRows::max_width];
    repeat(strip, fold_rows(strip, channels).width, bias + first, repeated);
    write_spans(rows, strip, channels, Output<T>(y + first, rows * channels, true),
                [&](std::int64_t, std::int64_t count, T* to) { add_span(count, repeated, to); });
  });
}

template <class T>
void channel_sum(std::int64_t rows, std::int64_t channels, const T* x, T* sum, bool accumulate, double* workspace) {
  for_channel_strips(channels, [&](std::int64_t first, std::int64_t strip) {
    reduce_rows<T, 1>(rows, strip, channels, workspace, [&](std::int64_t at, std::int64_t count, auto& sums) {
      add_span(count, x + first + at, sums[0]);
    });
    for (std::int64_t c = 0; c < strip; ++c) {
      const double before = accumulate ? sum[first + c] : 0;
      sum[first + c] = static_cast<T>(before + workspace[c]);
    }
  });
}

PALIMPSEST_BIAS_KERNELS(float)
PALIMPSEST_BIAS_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
