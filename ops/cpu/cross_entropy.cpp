#include <palimpsest/ops/cpu/rows.hpp>
#include <palimpsest/ops/kernels/cross_entropy.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

template <class T>
double largest_of(std::int64_t classes, const T* logits) {
  double largest = logits[0];
  for (std::int64_t c = 1; c < classes; ++c) largest = logits[c] > largest ? logits[c] : largest;
  return largest;
}

// sum(exp(logits - largest)): at least 1, so that neither a logarithm nor a quotient of it overflows.
template <class T>
double exponential_sum(std::int64_t classes, const T* logits, double largest) {
  double sum = 0;
  for (std::int64_t c = 0; c < classes; ++c) sum += __builtin_exp(logits[c] - largest);
  return sum;
}

/// sum(expected * (largest - logits)): what a row's loss is above the logarithm of its sum. Without smoothing other
/// logits than the label's do not count, however large they are.
template <class T>
double expected_distance(std::int64_t classes, const T* logits, double largest, std::int32_t label, double smoothing) {
  const double of_label = largest - logits[label];
  if (smoothing == 0) return of_label;
  double sum = 0;
  for (std::int64_t c = 0; c < classes; ++c) sum += largest - logits[c];
  return (1 - smoothing) * of_label + smoothing * (sum / static_cast<double>(classes));
}

/// The number of rows that count; 1 where none does, for quotients.
std::int64_t rows_counted(std::int64_t n, const std::int32_t* labels, std::int64_t ignored) {
  std::int64_t counted = 0;
  for (std::int64_t row = 0; row < n; ++row) counted += labels[row] != ignored;
  return larger(1, counted);
}

std::int64_t rows_of_task(std::int64_t classes) { return larger(1, 512 / classes); }

}  // namespace

template <class T>
void cross_entropy_forward(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                           std::int64_t ignored, double smoothing, T* loss) {
  constexpr std::int64_t max_tasks = 64;
  double losses[max_tasks] = {};
  const std::int64_t block = larger(rows_of_task(classes), ceil_div(n, max_tasks));
  parallel_blocks(n, block, [&](std::int64_t begin, std::int64_t end) {
    double sum = 0;
    for (std::int64_t row = begin; row < end; ++row) {
      if (labels[row] == ignored) continue;
      const T* x = logits + row * classes;
      const double largest = largest_of(classes, x);
      sum += __builtin_log(exponential_sum(classes, x, largest)) +
             expected_distance(classes, x, largest, labels[row], smoothing);
    }
    losses[begin / block] = sum;
  });
  double total = 0;
  for (const double sum : losses) total += sum;
  *loss = static_cast<T>(total / static_cast<double>(rows_counted(n, labels, ignored)));
}

template <class T>
void cross_entropy_backward(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                            std::int64_t ignored, double smoothing, const T* upstream, T* dlogits, bool accumulate,
                            std::int64_t*) {
  const double elsewhere = smoothing / static_cast<double>(classes);
  const double share = static_cast<double>(*upstream) / static_cast<double>(rows_counted(n, labels, ignored));
  parallel_blocks(n, rows_of_task(classes), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* x = logits + row * classes;
      T* dx = dlogits + row * classes;
      const double largest = largest_of(classes, x);
      const double sum = exponential_sum(classes, x, largest);
      for (std::int64_t c = 0; c < classes; ++c) {
        const double softmax = __builtin_exp(x[c] - largest) / sum;
        const double expected = c == labels[row] ? 1 - smoothing + elsewhere : elsewhere;
        const T own = static_cast<T>((softmax - expected) * share);
        const T gradient = labels[row] == ignored ? 0 : own;
        dx[c] = accumulate ? dx[c] + gradient : gradient;
      }
    }
  });
}

template <class T>
void argmax_correct(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                    std::int64_t ignored, std::int64_t* correct) {
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < n; ++row) {
    const T* x = logits + row * classes;
    std::int64_t best = 0;
    bool ordered = x[0] == x[0];  // a row with a NaN has no largest logit
    for (std::int64_t c = 1; c < classes; ++c) {
      best = x[c] > x[best] ? c : best;
      ordered = ordered && x[c] == x[c];
    }
    count += ordered && best == labels[row] && best != ignored ? 1 : 0;
  }
  *correct = count;
}

PALIMPSEST_CROSS_ENTROPY_KERNELS(float)
PALIMPSEST_CROSS_ENTROPY_KERNELS(double)

}  // namespace palimpsest::kernels::PALIMPSEST_ISA
