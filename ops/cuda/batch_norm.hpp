#pragma once

// The arithmetic of batch normalisation on CUDA. Every kernel normalises with these very operations, which the compiler
// cannot contract in another way in each, so that a gradient's mask agrees with the forward's result, and a result that
// is made again with the first.

#include <cstdint>

#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/kernels/batch_norm.hpp>

namespace palimpsest::kernels::gpu {

template <class T>
struct Channel {
  T mean;
  T scale;
  T beta;

  __device__ T value(T deviation) const { return fma(deviation, scale, beta); }
};

__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double product(double a, double b) { return __dmul_rn(a, b); }

template <class T>
__device__ inline Channel<T> channel_of(const Normalization<T>& n, std::int64_t c) {
  return {n.mean[c], product(n.gamma[c], n.rstd[c]), n.beta[c]};
}

/// y, given the deviation; NaN stays NaN.
template <class T>
__device__ inline T normalised(const Channel<T>& channel, bool relu, T deviation) {
  const T value = channel.value(deviation);
  return relu && value <= 0 ? T{0} : value;
}

/// dy', given the deviation.
template <class T>
__device__ inline T masked(const Channel<T>& channel, bool relu, T deviation, T dy) {
  return !relu || channel.value(deviation) > 0 ? dy : T{0};
}

/// The share of mean and rstd, being functions of the input, in its gradient: - offset - slope * (x - mean).
template <class T>
struct Correction {
  T offset = 0;
  T slope = 0;
};

template <class T>
__device__ inline Correction<T> correction_of(const Channel<T>& channel, T rstd, std::int64_t rows, T sum_dy,
                                              T sum_dy_xhat) {
  const T share = channel.scale / static_cast<T>(rows);
  return {share * sum_dy, share * rstd * sum_dy_xhat};
}

/// Stores the two sums that every gradient of batch normalisation is made of, given those of dy' and of dy' times the
/// deviation: see cuda::add_parts.
template <class T>
struct GradientSums {
  const T* rstd;
  T* sum_dy;
  T* sum_dy_xhat;

  __device__ void finish(std::int64_t channel, const double (&sums)[2]) const {
    sum_dy[channel] = static_cast<T>(sums[0]);
    sum_dy_xhat[channel] = static_cast<T>(sums[1] * static_cast<double>(rstd[channel]));
  }
};

}  // namespace palimpsest::kernels::gpu
