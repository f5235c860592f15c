#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

// Every kernel normalises with this very formula, so that a gradient's mask agrees with the forward's result.
template <class T>
inline T normalized(T deviation, T scale, T beta) {
  return multiply_add(deviation, scale, beta);
}

// dy', given the normalised value. Takes dy itself: loading it under a condition would be slow.
template <bool relu, class T>
inline T masked(T dy, T value) {
  return !relu || value > 0 ? dy : 0;
}

// The normalisation's parameters for a strip of channels, repeated over a folded row.
template <class T>
struct FoldedParameters {
  FoldedParameters(const FoldedRows& folded, std::int64_t first, std::int64_t channels, const Normalization<T>& n) {
    repeat(channels, folded.width, n.mean + first, mean);
    repeat(channels, folded.width, n.beta + first, beta);
    for (std::int64_t c = 0; c < channels; ++c) scale[c] = n.gamma[first + c] * n.rstd[first + c];
    repeat(channels, folded.width, scale, scale);
  }

  alignas(64) T mean[FoldedRows::max_width];
  alignas(64) T scale[FoldedRows::max_width];
  alignas(64) T beta[FoldedRows::max_width];
};

// A point amid each channel's values, from a few rows: the deviations from it are small enough to be squared and summed
// in T. It is the value itself where a channel is constant, so that such a channel's variance is exactly 0.
template <class T>
void choose_origin(std::int64_t rows, std::int64_t channels, std::int64_t stride, const T* __restrict x,
                   T* __restrict origin) {
  const std::int64_t samples = smaller(rows, 16);
  for (std::int64_t c = 0; c < channels; ++c) origin[c] = 0;
  for (std::int64_t sample = 1; sample < samples; ++sample) {
    const T* row = x + rows * sample / samples * stride;
    for (std::int64_t c = 0; c < channels; ++c) origin[c] += row[c] - x[c];
  }
  for (std::int64_t c = 0; c < channels; ++c) origin[c] = x[c] + origin[c] / static_cast<T>(samples);
}

template <class T>
inline void add_deviations(std::int64_t count, const T* __restrict x, const T* __restrict origin, T* __restrict sum,
                           T* __restrict sum_of_squares) {
  for (std::int64_t i = 0; i < count; ++i) {
    const T deviation = x[i] - origin[i];
    sum[i] += deviation;
    sum_of_squares[i] = multiply_add(deviation, deviation, sum_of_squares[i]);
  }
}

template <bool relu, class T>
inline void normalize(std::int64_t count, const T* x, const FoldedParameters<T>& p, T* y) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const T value = normalized(x[i] - p.mean[i], p.scale[i], p.beta[i]);
    y[i] = relu && value <= 0 ? 0 : value;
  }
}

template <bool relu, class T>
inline void add_gradients(std::int64_t count, const T* __restrict x, const T* __restrict dy,
                          const FoldedParameters<T>& p, T* __restrict sum_dy, T* __restrict sum_dy_deviation) {
  for (std::int64_t i = 0; i < count; ++i) {
    const T deviation = x[i] - p.mean[i];
    const T gradient = masked<relu>(dy[i], normalized(deviation, p.scale[i], p.beta[i]));
    sum_dy[i] += gradient;
    sum_dy_deviation[i] = multiply_add(gradient, deviation, sum_dy_deviation[i]);
  }
}

// dx = scale * dy' - offset - slope * (x - mean)
template <bool relu, bool accumulate, class T>
inline void input_gradient(std::int64_t count, const T* x, const T* dy, const FoldedParameters<T>& p, const T* offset,
                           const T* slope, T* dx) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const T deviation = x[i] - p.mean[i];
    const T gradient = masked<relu>(dy[i], normalized(deviation, p.scale[i], p.beta[i]));
    const T result = multiply_add(p.scale[i], gradient, multiply_add(deviation, -slope[i], -offset[i]));
    dx[i] = accumulate ? dx[i] + result : result;
  }
}

template <bool relu, bool accumulate, class T>
inline void affine_gradient(std::int64_t count, const T* x, const T* dy, const FoldedParameters<T>& p, T* dx) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const T gradient = masked<relu>(dy[i], relu ? normalized(x[i] - p.mean[i], p.scale[i], p.beta[i]) : 0);
    const T result = p.scale[i] * gradient;
    dx[i] = accumulate ? dx[i] + result : result;
  }
}

}  // namespace

template <class T>
void batch_norm_statistics(std::int64_t rows, std::int64_t channels, const T* x, T* mean, T* variance,
                           double* workspace) {
  for_channel_strips(channels, [&](std::int64_t first, std::int64_t strip) {
    alignas(64) T origin[FoldedRows::max_width];
    choose_origin(rows, strip, channels, x + first, origin);
    repeat(strip, fold_rows(strip, channels).width, origin, origin);
    reduce_rows<T, 2>(rows, strip, channels, workspace, [&](std::int64_t at, std::int64_t count, auto& sums) {
      add_deviations(count, x + first + at, origin, sums[0], sums[1]);
    });
    for (std::int64_t c = 0; c < strip; ++c) {
      const double deviation = workspace[c] / static_cast<double>(rows);
      const double square = workspace[strip + c] / static_cast<double>(rows) - deviation * deviation;
      mean[first + c] = static_cast<T>(origin[c] + deviation);
      variance[first + c] = static_cast<T>(square < 0 ? 0 : square);
    }
  });
}

template <class T>
void batch_norm_rstd(std::int64_t channels, double epsilon, T* variance) {
  for (std::int64_t c = 0; c < channels; ++c) {
    variance[c] = static_cast<T>(1.0 / __builtin_sqrt(static_cast<double>(variance[c]) + epsilon));
  }
}

template <class T>
void batch_norm_update_running(std::int64_t channels, double momentum, double factor, const T* batch, T* running) {
  for (std::int64_t c = 0; c < channels; ++c) {
    const double value = static_cast<double>(batch[c]) * factor;
    running[c] = static_cast<T>((1.0 - momentum) * static_cast<double>(running[c]) + momentum * value);
  }
}

template <class T>
void batch_norm_forward(std::int64_t rows, std::int64_t channels, const T* x, const Normalization<T>& n, T* y) {
  for_channel_strips(channels, [&](std::int64_t first, std::int64_t strip) {
    const FoldedParameters<T> p(fold_rows(strip, channels), first, strip, n);
    const Output<T> output(y + first, rows * channels, x == y);
    write_spans(rows, strip, channels, output, [&](std::int64_t at, std::int64_t count, T* to) {
      n.relu ? normalize<true>(count, x + first + at, p, to) : normalize<false>(count, x + first + at, p, to);
    });
  });
}

template <class T>
void batch_norm_reduce_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                                const Normalization<T>& n, T* sum_dy, T* sum_dy_xhat, double* workspace) {
  for_channel_strips(channels, [&](std::int64_t first, std::int64_t strip) {
    const FoldedParameters<T> p(fold_rows(strip, channels), first, strip, n);
    reduce_rows<T, 2>(rows, strip, channels, workspace, [&](std::int64_t at, std::int64_t count, auto& sums) {
      at += first;
      n.relu ? add_gradients<true>(count, x + at, dy + at, p, sums[0], sums[1])
             : add_gradients<false>(count, x + at, dy + at, p, sums[0], sums[1]);
    });
    for (std::int64_t c = 0; c < strip; ++c) {
      sum_dy[first + c] = static_cast<T>(workspace[c]);
      sum_dy_xhat[first + c] = static_cast<T>(workspace[strip + c] * n.rstd[first + c]);
    }
  });
}

template <class T>
void batch_norm_input_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                               const Normalization<T>& n, const T* sum_dy, const T* sum_dy_xhat, T* dx,
                               bool accumulate) {
  for_channel_strips(channels, [&](std::int64_t first, std::int64_t strip) {
    const FoldedRows folded = fold_rows(strip, channels);
    const FoldedParameters<T> p(folded, first, strip, n);
    alignas(64) T offsets[FoldedRows::max_width];
    alignas(64) T slopes[FoldedRows::max_width];
    for (std::int64_t c = 0; c < strip; ++c) {
      const T share = p.scale[c] / static_cast<T>(rows);
      offsets[c] = share * sum_dy[first + c];
      slopes[c] = share * n.rstd[first + c] * sum_dy_xhat[first + c];
    }
    repeat(strip, folded.width, offsets, offsets);
    repeat(strip, folded.width, slopes, slopes);
    const auto run = [&]<bool relu, bool add>() {
      const Output<T> output(dx + first, rows * channels, add || dx == dy || dx == x);
      write_spans(rows, strip, channels, output, [&](std::int64_t at, std::int64_t count, T* to) {
        at += first;
        input_gradient<relu, add>(count, x + at, dy + at, p, offsets, slopes, to);
      });
    };
    if (n.relu) {
      accumulate ? run.template operator()<true, true>() : run.template operator()<true, false>();
    } else {
      accumulate ? run.template operator()<false, true>() : run.template operator()<false, false>();
    }
  });
}

template <class T>
void batch_norm_affine_input_gradient(std::int64_t rows, std::int64_t channels, const T* x, const T* dy,
                                      const Normalization<T>& n, T* dx, bool accumulate) {
  for_channel_strips(channels, [&](std::int64_t first, std::int64_t strip) {
    const FoldedParameters<T> p(fold_rows(strip, channels), first, strip, n);
    const auto run = [&]<bool relu, bool add>() {
      const Output<T> output(dx + first, rows * channels, add || dx == dy || dx == x);
      write_spans(rows, strip, channels, output, [&](std::int64_t at, std::int64_t count, T* to) {
        at += first;
        affine_gradient<relu, add>(count, relu ? x + at : nullptr, dy + at, p, to);
      });
    };
    if (n.relu) {
      accumulate ? run.template operator()<true, true>() : run.template operator()<true, false>();
    } else {
      accumulate ? run.template operator()<false, true>() : run.template operator()<false, false>();
    }
  });
}

PALIMPSEST_BATCH_NORM_KERNELS(float)
PALIMPSEST_BATCH_NORM_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
