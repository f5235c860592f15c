#include <palimpsest/ops/cpu/tensor_list.hpp>
#include <palimpsest/ops/kernels/sgd.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

template <class T>
struct Factors {
  T learning_rate;
  T momentum;
  T weight_decay;
};

template <class T>
void step_plain(std::int64_t count, T* __restrict parameter, const T* __restrict gradient, Factors<T> by) {
  for (std::int64_t i = 0; i < count; ++i) {
    parameter[i] -= by.learning_rate * (gradient[i] + by.weight_decay * parameter[i]);
  }
}

template <bool nesterov, bool first_step, class T>
void step_momentum(std::int64_t count, T* __restrict parameter, const T* __restrict gradient, T* __restrict velocity,
                   Factors<T> by) {
  for (std::int64_t i = 0; i < count; ++i) {
    const T decayed = gradient[i] + by.weight_decay * parameter[i];
    const T next = first_step ? decayed : by.momentum * velocity[i] + decayed;
    velocity[i] = next;
    parameter[i] -= by.learning_rate * (nesterov ? decayed + by.momentum * next : next);
  }
}

// Elements [begin, end) of one tensor.
template <class T>
void step_part(const SgdTensor<T>& tensor, std::int64_t begin, std::int64_t end, const SgdOptions& spec) {
  const Factors<T> by = {static_cast<T>(spec.learning_rate), static_cast<T>(spec.momentum),
                         static_cast<T>(tensor.weight_decay)};
  T* parameter = tensor.parameter + begin;
  const T* gradient = tensor.gradient + begin;
  const std::int64_t count = end - begin;
  if (tensor.velocity == nullptr) return step_plain(count, parameter, gradient, by);
  T* velocity = tensor.velocity + begin;
  if (spec.nesterov) {
    tensor.first_step ? step_momentum<true, true>(count, parameter, gradient, velocity, by)
                      : step_momentum<true, false>(count, parameter, gradient, velocity, by);
  } else {
    tensor.first_step ? step_momentum<false, true>(count, parameter, gradient, velocity, by)
                      : step_momentum<false, false>(count, parameter, gradient, velocity, by);
  }
}

}  // namespace

template <class T>
void sgd_step(std::int64_t tensors, const SgdTensor<T>* list, const SgdOptions& spec) {
  parallel_over_list(tensors, list,
                     [&](const SgdTensor<T>& tensor, std::int64_t begin, std::int64_t end, std::int64_t) {
                       step_part(tensor, begin, end, spec);
                     });
}

template void sgd_step(std::int64_t, const SgdTensor<float>*, const SgdOptions&);
template void sgd_step(std::int64_t, const SgdTensor<double>*, const SgdOptions&);

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
