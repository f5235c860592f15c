#pragma once

// CPU kernels of the mean cross entropy of softmax(logits), T = float and double. logits: n x classes; labels: n, each
// in [0, classes), which the caller has checked; n, classes >= 1. On CUDA nobody has: a label outside is a fault, and
// the loss NaN.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

PALIMPSEST_KERNELS(

    /// *loss = the mean over the rows of log(sum(exp(logits))) - logits[label], computed in double.
    template <class T> void cross_entropy_forward(std::int64_t n, std::int64_t classes, const T* logits,
                                                  const std::int32_t* labels, T* loss);

    /// dlogits = (softmax(logits) - onehot(labels)) / n * *upstream. Adds to dlogits where `accumulate`, else dlogits
    /// may be logits.
    template <class T>
    void cross_entropy_backward(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                                const T* upstream, T* dlogits, bool accumulate);

    /// *correct = the number of rows whose first largest logit is at the label; a row with a NaN has none.
    template <class T> void argmax_correct(std::int64_t n, std::int64_t classes, const T* logits,
                                           const std::int32_t* labels, std::int64_t* correct);)

}  // namespace palimpsest::kernels
