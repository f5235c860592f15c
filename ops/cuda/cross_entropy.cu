// Cross entropy over rows of logits: so little work that one block does what ends in one number.

#include <palimpsest/ops/cuda/reduce.hpp>
#include <palimpsest/ops/kernels/cross_entropy.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

constexpr unsigned threads = gpu_geometry::block_threads;

template <class T>
__device__ double largest_of(Index classes, const T* logits) {
  double largest = static_cast<double>(logits[0]);
  for (Index c = 1; c < classes; ++c) largest = logits[c] > largest ? static_cast<double>(logits[c]) : largest;
  return largest;
}

/// sum(exp(logits - largest)): at least 1, so that neither a logarithm nor a quotient of it overflows.
template <class T>
__device__ double exponential_sum(Index classes, const T* logits, double largest) {
  double sum = 0;
  for (Index c = 0; c < classes; ++c) sum += exp(static_cast<double>(logits[c]) - largest);
  return sum;
}

/// sum(expected * (largest - logits)): what a row's loss is above the logarithm of its sum. Without smoothing other
/// logits than the label's do not count, however large they are.
template <class T>
__device__ double expected_distance(Index classes, const T* logits, double largest, std::int32_t label,
                                    double smoothing) {
  const double of_label = largest - static_cast<double>(logits[label]);
  if (smoothing == 0) return of_label;
  double sum = 0;
  for (Index c = 0; c < classes; ++c) sum += largest - static_cast<double>(logits[c]);
  return (1 - smoothing) * of_label + smoothing * (sum / static_cast<double>(classes));
}

__global__ void count_kernel(Index n, const std::int32_t* labels, Index ignored, std::int64_t* counted) {
  Index count = 0;
  for (Index row = threadIdx.x; row < n; row += threads) count += labels[row] != ignored;
  const Index total = add_over_block(count);
  if (threadIdx.x == 0) *counted = total;
}

template <class T>
__global__ void forward_kernel(Index n, Index classes, const T* logits, const std::int32_t* labels, Index ignored,
                               double smoothing, T* loss, Fault* fault, const char* op) {
  double sum = 0;
  Index count = 0;
  for (Index row = threadIdx.x; row < n; row += threads) {
    const T* const x = logits + row * classes;
    const std::int32_t label = labels[row];
    if (label == ignored) continue;
    ++count;
    if (label < 0 || label >= classes) {
      raise(fault, Fault::Label, op, static_cast<int>(classes), row, static_cast<double>(label));
      sum += static_cast<double>(NAN);
      continue;
    }
    const double largest = largest_of(classes, x);
    sum += log(exponential_sum(classes, x, largest)) + expected_distance(classes, x, largest, label, smoothing);
  }
  const double total = add_over_block(sum);
  const Index counted = add_over_block(count);
  if (threadIdx.x == 0) *loss = static_cast<T>(total / static_cast<double>(larger(1, counted)));
}

template <class T>
__global__ void backward_kernel(Index n, Index classes, const T* logits, const std::int32_t* labels, Index ignored,
                                double smoothing, const T* upstream, T* dlogits, bool accumulate,
                                const std::int64_t* counted) {
  const double elsewhere = smoothing / static_cast<double>(classes);
  const Index rows = counted == nullptr ? n : larger(1, *counted);
  const double share = static_cast<double>(*upstream) / static_cast<double>(rows);
  for (Index row = first_item(); row < n; row += item_step()) {
    const T* const x = logits + row * classes;
    T* const dx = dlogits + row * classes;
    const double largest = largest_of(classes, x);
    const double sum = exponential_sum(classes, x, largest);
    for (Index c = 0; c < classes; ++c) {
      const double softmax = exp(static_cast<double>(x[c]) - largest) / sum;
      const double expected = c == labels[row] ? 1 - smoothing + elsewhere : elsewhere;
      const T own = static_cast<T>((softmax - expected) * share);
      const T gradient = labels[row] == ignored ? T{0} : own;
      dx[c] = accumulate ? dx[c] + gradient : gradient;
    }
  }
}

template <class T>
__global__ void correct_kernel(Index n, Index classes, const T* logits, const std::int32_t* labels, Index ignored,
                               std::int64_t* correct, Fault* fault, const char* op) {
  Index count = 0;
  for (Index row = threadIdx.x; row < n; row += threads) {
    const T* const x = logits + row * classes;
    const std::int32_t label = labels[row];
    if (label == ignored) continue;
    if (label < 0 || label >= classes) {
      raise(fault, Fault::Label, op, static_cast<int>(classes), row, static_cast<double>(label));
    }
    Index best = 0;
    bool ordered = x[0] == x[0];  // a row with a NaN has no largest logit
    for (Index c = 1; c < classes; ++c) {
      best = x[c] > x[best] ? c : best;
      ordered = ordered && x[c] == x[c];
    }
    count += ordered && best == label ? 1 : 0;
  }
  const Index total = add_over_block(count);
  if (threadIdx.x == 0) *correct = total;
}

constexpr Geometry one_block() { return {dim3(1), dim3(threads)}; }

}  // namespace

template <class T>
void cross_entropy_forward(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                           std::int64_t ignored, double smoothing, T* loss) {
  PALIMPSEST_LAUNCH(one_block(), forward_kernel<T>, n, classes, logits, labels, ignored, smoothing, loss, fault(),
                    "cross_entropy");
}

template <class T>
void cross_entropy_backward(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                            std::int64_t ignored, double smoothing, const T* upstream, T* dlogits, bool accumulate,
                            std::int64_t* counted) {
  if (counted != nullptr) PALIMPSEST_LAUNCH(one_block(), count_kernel, n, labels, ignored, counted);
  PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(n)), backward_kernel<T>, n, classes, logits, labels, ignored,
                    smoothing, upstream, dlogits, accumulate, counted);
}

template <class T>
void argmax_correct(std::int64_t n, std::int64_t classes, const T* logits, const std::int32_t* labels,
                    std::int64_t ignored, std::int64_t* correct) {
  PALIMPSEST_LAUNCH(one_block(), correct_kernel<T>, n, classes, logits, labels, ignored, correct, fault(),
                    "count_correct");
}

PALIMPSEST_CROSS_ENTROPY_KERNELS(float)
PALIMPSEST_CROSS_ENTROPY_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
