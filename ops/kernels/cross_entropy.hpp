#pragma once

// Kernels of the mean cross entropy of softmax(logits), T = float and double. logits: n x classes; labels: n, each
// `ignored` or in [0, classes), which the caller has checked; n, classes >= 1. On CUDA nobody has: another label is a
// fault, and the loss NaN. Rows whose label is `ignored` (a number that no label is where nothing is ignored) count for
// nothing; the mean of no rows is 0. The probabilities that are expected of a row are 1 - smoothing at its label and
// smoothing / classes everywhere beside that.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// No label is this: nothing is ignored.
inline constexpr std::int64_t nothing_ignored = INT64_MIN;

PALIMPSEST_KERNELS(

    /// *loss = the mean over the rows of log(sum(exp(logits))) - sum(expected * logits), computed in double.
    template <class T>
    void cross_entropy_forward(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                               std::int64_t ignored, double smoothing, T* loss);

    /// dlogits = (softmax(logits) - expected) / rows that count * *upstream. Adds to dlogits where `accumulate`,
    /// else dlogits may be logits. `counted`: room for the number of rows that count, null where nothing is ignored.
    template <class T>
    void cross_entropy_backward(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                                std::int64_t ignored, double smoothing, const T* upstream, T* dlogits, bool accumulate,
                                std::int64_t* counted);

    /// *correct = the number of rows whose first largest logit is at the label; a row with a NaN has none.
    template <class T> void argmax_correct(std::int64_t n, std::int64_t classes, const T* logits,
                                           const std::int32_t* labels, std::int64_t ignored, std::int64_t* correct);)

/// Instantiates the kernels for an element type, in the file of each device.
#define PALIMPSEST_CROSS_ENTROPY_KERNELS(T)                                                                            \
  template void cross_entropy_forward(std::int64_t, std::int64_t, const T*, const std::int32_t*, std::int64_t, double, \
                                      T*);                                                                             \
  template void cross_entropy_backward(std::int64_t, std::int64_t, const T*, const std::int32_t*, std::int64_t,        \
                                       double, const T*, T*, bool, std::int64_t*);                                     \
  template void argmax_correct(std::int64_t, std::int64_t, const T*, const std::int32_t*, std::int64_t, std::int64_t*);

}  // namespace palimpsest::kernels
