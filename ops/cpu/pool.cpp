#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/pool.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

struct Range {
  std::int64_t begin;
  std::int64_t end;
};

// Positions of window `index` that lie inside [0, size), along one axis.
inline Range inside(const PoolShape& shape, std::int64_t index, std::int64_t pad, std::int64_t size) {
  const std::int64_t start = index * shape.stride - pad;
  return {larger(start, 0), smaller(start + shape.kernel, size)};
}

// Windows that `position` lies in, along one axis, without padding.
inline Range windows_of(const PoolShape& shape, std::int64_t position, std::int64_t count) {
  const std::int64_t before = larger(position - shape.kernel + 1, 0);
  return {ceil_div(before, shape.stride), smaller(position / shape.stride + 1, count)};
}

// body(image, row) for the rows of all images, in parallel, several to a task if they are short.
template <class Body>
void parallel_image_rows(std::int64_t n, std::int64_t height, std::int64_t row_elements, const Body& body) {
  parallel_blocks(n * height, larger(1, task_elements / row_elements), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) body(row / height, row % height);
  });
}

template <class T>
inline void set_zero(std::int64_t count, T* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = 0;
}

template <bool accumulate, class T>
inline void add_scaled(std::int64_t count, T factor, const T* __restrict from, T* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = accumulate ? to[i] + factor * from[i] : factor * from[i];
}

template <class T>
inline void keep_larger(std::int64_t count, const T* __restrict from, T* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = from[i] > to[i] || from[i] != from[i] ? from[i] : to[i];
}

template <class T>
inline void copy(std::int64_t count, const T* __restrict from, T* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// body(pixel's offset in elements, place in the window) for the pixels of a window that are not padding, in scan order.
template <class Body>
inline void for_window(const PoolShape& shape, std::int64_t image, std::int64_t out_row, std::int64_t out_column,
                       const Body& body) {
  const Range rows = inside(shape, out_row, shape.pad_top, shape.height);
  const Range columns = inside(shape, out_column, shape.pad_left, shape.width);
  int place = 0;
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const std::int64_t start = (image * shape.height + row) * shape.width;
    for (std::int64_t column = columns.begin; column < columns.end; ++column) {
      body((start + column) * shape.channels, place++);
    }
  }
}

// The first largest element of a window, for up to `max_channels` channels at once. Places are counted in T, so that
// they fill vectors as the values do.
template <class T>
struct Winners {
  static constexpr std::int64_t max_channels = 64;
  alignas(64) T value[max_channels];
  alignas(64) T place[max_channels];

  void start(std::int64_t count, const T* x) {
    copy(count, x, value);
    set_zero(count, place);
  }

  // NaN beats all but an earlier NaN.
  void challenge(std::int64_t count, const T* x, T at) {
    for (std::int64_t c = 0; c < count; ++c) {
      const T challenger = x[c];
      const bool wins = !(challenger <= value[c]) && value[c] == value[c];
      value[c] = wins ? challenger : value[c];
      place[c] = wins ? at : place[c];
    }
  }

  void award(std::int64_t count, const T* __restrict dy, T at, T* __restrict dx) const {
    for (std::int64_t c = 0; c < count; ++c) {
      const T prize = dy[c];  // loaded unconditionally: a conditional load would be a slow masked one
      dx[c] += place[c] == at ? prize : 0;
    }
  }
};

}  // namespace

template <class T>
void sum_windows(const PoolShape& shape, T share, const T* x, T* y, bool accumulate) {
  const std::int64_t channels = shape.channels;
  const std::int64_t row_elements = shape.out_width * channels;
  parallel_image_rows(shape.n, shape.out_height, row_elements, [&](std::int64_t image, std::int64_t out_row) {
    T* to = y + (image * shape.out_height + out_row) * row_elements;
    for (std::int64_t out_column = 0; out_column < shape.out_width; ++out_column, to += channels) {
      for_window(shape, image, out_row, out_column, [&](std::int64_t at, int place) {
        accumulate || place > 0 ? add_scaled<true>(channels, share, x + at, to)
                                : add_scaled<false>(channels, share, x + at, to);
      });
    }
  });
}

// Gathers, pixel of dx by pixel, so that overlapping windows need no order among tasks.
template <class T>
void spread_windows(const PoolShape& shape, T share, const T* y, T* x, bool accumulate) {
  const std::int64_t channels = shape.channels;
  parallel_image_rows(shape.n, shape.height, shape.width * channels, [&](std::int64_t image, std::int64_t row) {
    const Range out_rows = windows_of(shape, row, shape.out_height);
    T* to = x + (image * shape.height + row) * shape.width * channels;
    for (std::int64_t column = 0; column < shape.width; ++column, to += channels) {
      const Range out_columns = windows_of(shape, column, shape.out_width);
      const bool covered = out_rows.begin < out_rows.end && out_columns.begin < out_columns.end;
      if (!accumulate && !covered) set_zero(channels, to);
      bool add = accumulate;
      for (std::int64_t i = out_rows.begin; i < out_rows.end; ++i) {
        for (std::int64_t j = out_columns.begin; j < out_columns.end; ++j) {
          const std::int64_t window = (image * shape.out_height + i) * shape.out_width + j;
          add ? add_scaled<true>(channels, share, y + window * channels, to)
              : add_scaled<false>(channels, share, y + window * channels, to);
          add = true;
        }
      }
    }
  });
}

template <class T>
void global_avg_pool_forward(std::int64_t n, std::int64_t pixels, std::int64_t channels, const T* x, T* y) {
  constexpr std::int64_t strip = 512;
  const std::int64_t strips = ceil_div(channels, strip);
  parallel_for(n * strips, [&](std::int64_t task) {
    const std::int64_t image = task / strips;
    const std::int64_t first = task % strips * strip;
    const std::int64_t width = smaller(strip, channels - first);
    alignas(64) double sums[strip];
    set_zero(width, sums);
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
      const T* from = x + (image * pixels + pixel) * channels + first;
      for (std::int64_t c = 0; c < width; ++c) sums[c] += from[c];
    }
    T* to = y + image * channels + first;
    for (std::int64_t c = 0; c < width; ++c) to[c] = static_cast<T>(sums[c] / static_cast<double>(pixels));
  });
}

template <class T>
void global_avg_pool_backward(std::int64_t n, std::int64_t pixels, std::int64_t channels, const T* dy, T* dx,
                              bool accumulate) {
  const T factor = T{1} / static_cast<T>(pixels);
  const std::int64_t block = smaller(pixels, larger(1, task_elements / channels));
  const std::int64_t blocks = ceil_div(pixels, block);
  parallel_for(n * blocks, [&](std::int64_t task) {
    const std::int64_t image = task / blocks;
    const std::int64_t first = task % blocks * block;
    const std::int64_t last = smaller(first + block, pixels);
    for (std::int64_t pixel = first; pixel < last; ++pixel) {
      T* to = dx + (image * pixels + pixel) * channels;
      accumulate ? add_scaled<true>(channels, factor, dy + image * channels, to)
                 : add_scaled<false>(channels, factor, dy + image * channels, to);
    }
  });
}

template <class T>
void max_pool2d_forward(const PoolShape& shape, const T* x, T* y) {
  const std::int64_t channels = shape.channels;
  const std::int64_t row_elements = shape.out_width * channels;
  parallel_image_rows(shape.n, shape.out_height, row_elements, [&](std::int64_t image, std::int64_t out_row) {
    T* to = y + (image * shape.out_height + out_row) * row_elements;
    for (std::int64_t out_column = 0; out_column < shape.out_width; ++out_column, to += channels) {
      for_window(shape, image, out_row, out_column, [&](std::int64_t at, int place) {
        place == 0 ? copy(channels, x + at, to) : keep_larger(channels, x + at, to);
      });
    }
  });
}

// Windows may overlap, so a task takes whole images, and to have enough tasks, strips of their channels.
template <class T>
void max_pool2d_backward(const PoolShape& shape, const T* x, const T* dy, T* dx, bool accumulate) {
  constexpr std::int64_t strip = Winners<T>::max_channels;
  const std::int64_t channels = shape.channels;
  const std::int64_t strips = ceil_div(channels, strip);
  const std::int64_t pixels = shape.height * shape.width;
  parallel_for(shape.n * strips, [&](std::int64_t task) {
    const std::int64_t image = task / strips;
    const std::int64_t first = task % strips * strip;
    const std::int64_t width = smaller(strip, channels - first);
    if (!accumulate) {
      for (std::int64_t p = 0; p < pixels; ++p) set_zero(width, dx + (image * pixels + p) * channels + first);
    }
    const T* from = dy + image * shape.out_height * shape.out_width * channels + first;
    for (std::int64_t i = 0; i < shape.out_height; ++i) {
      for (std::int64_t j = 0; j < shape.out_width; ++j, from += channels) {
        Winners<T> winners;
        for_window(shape, image, i, j, [&](std::int64_t at, int place) {
          place == 0 ? winners.start(width, x + at + first)
                     : winners.challenge(width, x + at + first, static_cast<T>(place));
        });
        for_window(shape, image, i, j, [&](std::int64_t at, int place) {
          winners.award(width, from, static_cast<T>(place), dx + at + first);
        });
      }
    }
  });
}

PALIMPSEST_POOL_KERNELS(float)
PALIMPSEST_POOL_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
