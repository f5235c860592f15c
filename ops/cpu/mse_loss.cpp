#include <palimpsest/ops/cpu/tensor_list.hpp>
#include <palimpsest/ops/kernels/mse_loss.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {

template <class T>
void mse_forward(std::int64_t count, const T* x, const T* target, double*, T* loss) {
  struct Whole {
    std::int64_t count;
  };
  const Whole whole{count};
  double sums[max_list_tasks] = {};
  parallel_over_list(1, &whole, [&](const Whole&, std::int64_t begin, std::int64_t end, std::int64_t task) {
    sums[task] = sum_of_terms(begin, end, [&](std::int64_t i) {
      const double error = static_cast<double>(x[i]) - static_cast<double>(target[i]);
      return error * error;
    });
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  *loss = static_cast<T>(total / static_cast<double>(count));
}

template <class T>
void mse_backward(std::int64_t count, const T* x, const T* target, const T* upstream, T* dx, bool accumulate) {
  const T factor = static_cast<T>(2 * static_cast<double>(*upstream) / static_cast<double>(count));
  const Output<T> output(dx, count, accumulate);
  write_elements(count, output, [&](std::int64_t offset, std::int64_t span, T* to) {
    const T* const a = x + offset;
    const T* const b = target + offset;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < span; ++i) {
      const T gradient = factor * (a[i] - b[i]);
      to[i] = accumulate ? to[i] + gradient : gradient;
    }
  });
}

PALIMPSEST_MSE_KERNELS(float)
PALIMPSEST_MSE_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
