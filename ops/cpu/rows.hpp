#pragma once

// Tools of the memory-bound CPU kernels: splitting work into tasks by shapes alone, and walking over channels-last
// rows. For kernel files only; everything here is local to the file and the instruction set that includes it.

#include <cstdint>

#include <palimpsest/core/index.hpp>
#include <palimpsest/core/parallel.hpp>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

/// Calls body(begin, end) for the blocks of `size` that make up [0, count), in parallel.
template <class Body>
inline void parallel_blocks(std::int64_t count, std::int64_t size, const Body& body) {
  parallel_for(ceil_div(count, size),
               [&](std::int64_t block) { body(block * size, smaller(count, (block + 1) * size)); });
}

/// Elements that make a task worth handing to a thread.
constexpr std::int64_t task_elements = 8192;

/// Calls body(begin, end) for blocks of [0, count) elements, in parallel.
template <class Body>
inline void parallel_elements(std::int64_t count, const Body& body) {
  parallel_blocks(count, task_elements, body);
}

/// a * b + c, rounded once where the machine has such an instruction: written out, so that the same formula in two
/// kernels gives the same bits.
inline float multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline double multiply_add(double a, double b, double c) {
#ifdef __FP_FAST_FMA
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// Copies past the caches, which spares reading the lines that are overwritten. from: aligned to 64 bytes. A task that
/// streams must end with publish_streams(): these stores are ordered with no others.
template <class T>
inline void stream(std::int64_t count, const T* __restrict from, T* __restrict to) {
  std::int64_t i = 0;
#if defined(__SSE2__)
  constexpr std::int64_t step = PALIMPSEST_VECTOR_BYTES / sizeof(T);
  if (reinterpret_cast<std::uintptr_t>(to) % PALIMPSEST_VECTOR_BYTES == 0) {
    for (; i + step <= count; i += step) {
#if PALIMPSEST_VECTOR_BYTES == 64
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), *reinterpret_cast<const __m512i*>(from + i));
#elif PALIMPSEST_VECTOR_BYTES == 32
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), *reinterpret_cast<const __m256i*>(from + i));
#else
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), *reinterpret_cast<const __m128i*>(from + i));
#endif
    }
  }
#endif
  for (; i < count; ++i) to[i] = from[i];
}

inline void publish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

/// The destination of a kernel. An output larger than the caches is computed span by span into a buffer and streamed
/// out; that took a quarter off writing 50 MB and reading them again. An output that fits in the caches, or is in them
/// because it is written in place, is not.
template <class T>
class Output {
 public:
  static constexpr std::int64_t max_span = 2048;

  Output(T* data, std::int64_t count, bool in_place)
      : data_(data), streams_(!in_place && count * static_cast<std::int64_t>(sizeof(T)) >= streaming_bytes) {}

  /// compute(to) is to write `count` <= max_span elements, those of the output from `offset` on, to `to`.
  template <class Compute>
  void write(std::int64_t offset, std::int64_t count, const Compute& compute) const {
    if (!streams_) return compute(data_ + offset);
    alignas(64) T buffer[max_span];
    compute(buffer);
    stream(count, buffer, data_ + offset);
  }

  /// To be called at the end of each task that has written.
  void finish() const {
    if (streams_) publish_streams();
  }

 private:
  static constexpr std::int64_t streaming_bytes = 32 << 20;

  T* data_;
  bool streams_;
};

/// Calls compute(offset, count, to) for spans of [0, count) elements, in parallel; it is to write them to `to`.
template <class T, class Compute>
inline void write_elements(std::int64_t count, const Output<T>& output, const Compute& compute) {
  constexpr std::int64_t max_span = 512;  // the shorter, the more of reading and streaming overlaps
  parallel_elements(count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t offset = begin; offset < end; offset += max_span) {
      const std::int64_t span = smaller(max_span, end - offset);
      output.write(offset, span, [&](T* to) { compute(offset, span, to); });
    }
    output.finish();
  });
}

/// Rows of few channels, or of channels that do not fill vectors, would waste most of each vector. So `fold` rows are
/// walked over as one of `width` = fold * channels elements, with the per-channel parameters repeated as often.
struct FoldedRows {
  static constexpr std::int64_t max_width = 2048;  // no more than Output::max_span

  std::int64_t fold;
  std::int64_t width;
};

/// The folding of rows of channels <= FoldedRows::max_width. Rows that are apart (stride > channels) are not folded.
inline FoldedRows fold_rows(std::int64_t channels, std::int64_t stride) {
  if (stride != channels) return {1, channels};
  std::int64_t fold = 1;
  while (fold * channels < 256 || fold * channels % 16 != 0) fold *= 2;
  if (fold * channels > FoldedRows::max_width) fold = 1;
  return {fold, fold * channels};
}

/// Splits channels into strips that a folding can hold: body(first channel, channels of the strip).
template <class Body>
inline void for_channel_strips(std::int64_t channels, const Body& body) {
  for (std::int64_t first = 0; first < channels; first += FoldedRows::max_width) {
    body(first, smaller(FoldedRows::max_width, channels - first));
  }
}

/// to[i] = from[i % channels] for i < width.
template <class T>
inline void repeat(std::int64_t channels, std::int64_t width, const T* from, T* to) {
  for (std::int64_t i = 0; i < width; i += channels) {
    for (std::int64_t c = 0; c < channels; ++c) to[i + c] = from[c];
  }
}

/// to[i % channels] += from[i] for i < width.
template <class T>
inline void unfold(std::int64_t channels, std::int64_t width, const T* __restrict from, double* __restrict to) {
  for (std::int64_t i = 0; i < width; i += channels) {
    for (std::int64_t c = 0; c < channels; ++c) to[c] += from[i + c];
  }
}

/// Walks over `rows` rows of `channels` elements, `stride` apart, in parallel: compute(offset, count, to) for spans of
/// `count` <= width elements from `offset` on, which it is to write to `to`. Element i of a span is of channel
/// i % channels.
template <class T, class Compute>
inline void write_spans(std::int64_t rows, std::int64_t channels, std::int64_t stride, const Output<T>& output,
                        const Compute& compute) {
  const FoldedRows folded = fold_rows(channels, stride);
  const std::int64_t block = folded.fold * larger(1, task_elements / folded.width);
  parallel_blocks(rows, block, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; row += folded.fold) {
      const std::int64_t offset = row * stride;
      const std::int64_t count = smaller(folded.fold, end - row) * channels;
      output.write(offset, count, [&](T* to) { compute(offset, count, to); });
    }
    output.finish();
  });
}

/// Rows of each task of a reduction: at least 16, at most 64 tasks, and whole folded rows.
inline std::int64_t reduction_block(std::int64_t rows, std::int64_t channels, std::int64_t fold) {
  const std::int64_t enough = larger(16, ceil_div(4096, channels));
  return ceil_div(larger(enough, ceil_div(rows, 64)), fold) * fold;
}

/// Sums over the rows: `sums` numbers of each channel, of rows of `channels` elements that are `stride` apart.
/// body(offset, count, partial) is to add the span of `count` elements at `offset` (see write_spans) to
/// partial[0 .. sums)[0 .. count). The partial sums in T span few rows, beyond which they are gathered in double: this
/// walks memory in order, which taking several rows at once to spare the accumulators' traffic would not, and measured
/// twice as fast. Leaves the result in workspace[0 .. sums)[0 .. channels); takes sums * channels doubles for each of
/// at most min(64, ceil(rows / 16)) tasks.
template <class T, int sums, class Body>
inline void reduce_rows(std::int64_t rows, std::int64_t channels, std::int64_t stride, double* workspace,
                        const Body& body) {
  constexpr std::int64_t chain = 32;
  const FoldedRows folded = fold_rows(channels, stride);
  const std::int64_t block = reduction_block(rows, channels, folded.fold);
  parallel_blocks(rows, block, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) T partial[sums][FoldedRows::max_width];
    double* result = workspace + begin / block * sums * channels;
    for (std::int64_t i = 0; i < sums * channels; ++i) result[i] = 0;
    for (std::int64_t first = begin; first < end; first += chain * folded.fold) {
      const std::int64_t last = smaller(end, first + chain * folded.fold);
      for (auto& sum : partial) {
        for (std::int64_t i = 0; i < folded.width; ++i) sum[i] = 0;
      }
      for (std::int64_t row = first; row < last; row += folded.fold) {
        body(row * stride, smaller(folded.fold, last - row) * channels, partial);
      }
      for (int sum = 0; sum < sums; ++sum) unfold(channels, folded.width, partial[sum], result + sum * channels);
    }
  });
  for (std::int64_t task = 1; task < ceil_div(rows, block); ++task) {
    const double* result = workspace + task * sums * channels;
    for (std::int64_t i = 0; i < sums * channels; ++i) workspace[i] += result[i];
  }
}

template <bool accumulate, int width, class T>
inline void move_rows_of(std::int64_t rows, const T* __restrict from, std::int64_t from_stride, T* __restrict to,
                         std::int64_t to_stride) {
  for (std::int64_t row = 0; row < rows; ++row, from += from_stride, to += to_stride) {
    for (int i = 0; i < width; ++i) to[i] = accumulate ? to[i] + from[i] : from[i];
  }
}

/// Copies (or adds) a strip: `rows` rows of `width` elements, from_stride and to_stride apart. Narrow strips are the
/// rule in dense blocks, and a width known to the compiler spares them the loop: try those from `known` on.
template <bool accumulate, int known = 4, class T>
inline void move_rows(std::int64_t rows, std::int64_t width, const T* __restrict from, std::int64_t from_stride,
                      T* __restrict to, std::int64_t to_stride) {
  if (width == known) return move_rows_of<accumulate, known>(rows, from, from_stride, to, to_stride);
  if constexpr (known < 64) {
    if (width % 4 == 0) return move_rows<accumulate, known + 4>(rows, width, from, from_stride, to, to_stride);
  }
  for (std::int64_t row = 0; row < rows; ++row, from += from_stride, to += to_stride) {
    for (std::int64_t i = 0; i < width; ++i) to[i] = accumulate ? to[i] + from[i] : from[i];
  }
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
