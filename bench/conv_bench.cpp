// Compares the CPU convolutions with oneDNN's, both channels-last, float, on the same buffers: GFLOP/s of the forward,
// the data gradient and the weight gradient, the best of several repetitions.
//
//   conv_bench [threads] [repetitions] [part of a shape's name] [number to divide the batches by]

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/ops/kernels/conv2d.hpp>

namespace {

using palimpsest::kernels::Conv2dGeometry;
using Clock = std::chrono::steady_clock;

struct Case {
  std::string name;
  Conv2dGeometry g;
};

Case make_case(std::int64_t n, std::int64_t c_in, std::int64_t c_out, std::int64_t side, std::int64_t kernel,
               std::int64_t stride = 1) {
  const std::int64_t out = side / stride;
  // With stride 2, a 3x3 kernel pads at the bottom and the right only (RevNet), a 7x7 one everywhere (an ImageNet
  // stem).
  const std::int64_t pad = stride == 2 && kernel == 3 ? 0 : kernel / 2;
  const std::string name = "N" + std::to_string(n) + " " + std::to_string(c_in) + "->" + std::to_string(c_out) + " " +
                           std::to_string(kernel) + "x" + std::to_string(kernel) + "/" + std::to_string(stride) + " " +
                           std::to_string(side) + "x" + std::to_string(side);
  return {name, {n, c_in, side, side, c_out, out, out, kernel, kernel, stride, stride, pad, pad}};
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::int64_t side : {32, 16, 8}) all.push_back(make_case(64, 48, 12, side, 3));
  all.push_back(make_case(100, 16, 16, 32, 3));
  all.push_back(make_case(100, 32, 32, 16, 3));
  all.push_back(make_case(100, 64, 64, 8, 3));
  for (const std::int64_t c : {24, 36, 60, 84, 108, 132, 156, 180, 200, 204})
    all.push_back(make_case(64, c, 48, 32, 1));
  for (const std::int64_t c : {108, 168, 228, 288}) all.push_back(make_case(64, c, 48, 16, 1));
  for (const std::int64_t c : {150, 210, 270, 330}) all.push_back(make_case(64, c, 48, 8, 1));
  all.push_back(make_case(64, 216, 108, 32, 1));
  all.push_back(make_case(64, 300, 150, 16, 1));
  for (const std::int64_t c_out : {24, 32}) {
    for (const std::int64_t c_in : {1, 3}) all.push_back(make_case(64, c_in, c_out, 32, 3));
  }
  all.push_back(make_case(100, 16, 32, 32, 3, 2));
  all.push_back(make_case(100, 32, 64, 16, 3, 2));
  all.push_back(make_case(4, 3, 64, 224, 7, 2));  // few large images, many channels
  all.push_back(make_case(4, 64, 64, 56, 3));
  all.push_back(make_case(4, 256, 64, 56, 1));
  all.push_back(make_case(4, 64, 256, 56, 1));
  all.push_back(make_case(4, 128, 128, 28, 3));
  all.push_back(make_case(4, 256, 256, 14, 3));
  all.push_back(make_case(4, 512, 512, 7, 3));
  all.push_back(make_case(64, 96, 24, 32, 3));  // DenseNet-BC with growth rate 24
  return all;
}

double gflop(const Conv2dGeometry& g) {
  return 2e-9 * static_cast<double>(g.n * g.h_out * g.w_out * g.c_out) *
         static_cast<double>(g.kernel_h * g.kernel_w * g.c_in);
}

std::vector<float> noise(std::int64_t size) {
  std::vector<float> values(static_cast<std::size_t>(size));
  std::uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(state >> 8) * 0x1p-24F - 0.5F;
  }
  return values;
}

template <class Body>
double best_seconds(int repetitions, const Body& body) {
  double best = 1e30;
  for (int i = 0; i < repetitions + 1; ++i) {
    const Clock::time_point start = Clock::now();
    body();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (i > 0 && seconds < best) best = seconds;
  }
  return best;
}

/// oneDNN on buffers that the caller owns: activations channels-last, weights in the layout it prefers.
class Dnnl {
 public:
  Dnnl(const Conv2dGeometry& g, float* x, float* y) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using md = dnnl::memory::desc;
    using tag = dnnl::memory::format_tag;
    const auto f32 = dnnl::memory::data_type::f32;
    const md xd({g.n, g.c_in, g.h_in, g.w_in}, f32, tag::nhwc);
    const md yd({g.n, g.c_out, g.h_out, g.w_out}, f32, tag::nhwc);
    const md wd({g.c_out, g.c_in, g.kernel_h, g.kernel_w}, f32, tag::any);
    const dnnl::memory::dims strides = {g.stride_h, g.stride_w};
    const dnnl::memory::dims low = {g.pad_top, g.pad_left};
    const dnnl::memory::dims high = {(g.h_out - 1) * g.stride_h + g.kernel_h - g.pad_top - g.h_in,
                                     (g.w_out - 1) * g.stride_w + g.kernel_w - g.pad_left - g.w_in};
    const auto algorithm = dnnl::algorithm::convolution_direct;
    const dnnl::convolution_forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training, algorithm, xd, wd, yd, strides, low, high}, engine_);
    const dnnl::convolution_backward_data::primitive_desc data({algorithm, xd, wd, yd, strides, low, high}, engine_,
                                                               forward);
    const dnnl::convolution_backward_weights::primitive_desc weights({algorithm, xd, wd, yd, strides, low, high},
                                                                     engine_, forward);
    const dnnl::memory x_memory(xd, engine_, x);
    const dnnl::memory y_memory(yd, engine_, y);
    forward_ = {dnnl::convolution_forward(forward),
                {{DNNL_ARG_SRC, x_memory},
                 {DNNL_ARG_WEIGHTS, dnnl::memory(forward.weights_desc(), engine_)},
                 {DNNL_ARG_DST, y_memory}}};
    data_ = {dnnl::convolution_backward_data(data),
             {{DNNL_ARG_DIFF_DST, y_memory},
              {DNNL_ARG_WEIGHTS, dnnl::memory(data.weights_desc(), engine_)},
              {DNNL_ARG_DIFF_SRC, x_memory}}};
    weights_ = {dnnl::convolution_backward_weights(weights),
                {{DNNL_ARG_SRC, x_memory},
                 {DNNL_ARG_DIFF_DST, y_memory},
                 {DNNL_ARG_DIFF_WEIGHTS, dnnl::memory(weights.diff_weights_desc(), engine_)}}};
    // Freshly mapped pages of zeros share one physical page, which would flatter: write them.
    for (Call* call : {&forward_, &data_}) {
      const dnnl::memory& w = call->arguments.at(DNNL_ARG_WEIGHTS);
      auto* values = static_cast<float*>(w.get_data_handle());
      for (std::size_t i = 0; i < w.get_desc().get_size() / sizeof(float); ++i) values[i] = 1e-3F;
    }
  }

  void forward() { run(forward_); }
  void grad_input() { run(data_); }
  void grad_weight() { run(weights_); }

 private:
  struct Call {
    dnnl::primitive primitive;
    std::unordered_map<int, dnnl::memory> arguments;
  };

  void run(Call& call) {
    call.primitive.execute(stream_, call.arguments);
    stream_.wait();
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  Call forward_, data_, weights_;
};

struct Speeds {
  double forward, grad_input, grad_weight;
};

Speeds measure_ours(const Conv2dGeometry& g, int repetitions, std::vector<float>& x, std::vector<float>& y) {
  using namespace palimpsest::kernels;
  const std::vector<float> w = noise(g.c_out * g.kernel_h * g.kernel_w * g.c_in);
  std::vector<float> dw(w.size());
  const std::size_t workspace = std::max({conv2d_forward_workspace(Device::Cpu, g, sizeof(float)),
                                          conv2d_grad_input_workspace(Device::Cpu, g, sizeof(float)),
                                          conv2d_grad_weight_workspace(Device::Cpu, g, sizeof(float))});
  std::vector<float> space(workspace / sizeof(float) + 16);
  float* aligned = space.data() + (64 - reinterpret_cast<std::uintptr_t>(space.data()) % 64) % 64 / sizeof(float);
  const double work = gflop(g);
  return {
      work /
          best_seconds(repetitions, [&] { PALIMPSEST_CALL(conv2d_forward(g, x.data(), w.data(), y.data(), aligned)); }),
      work / best_seconds(repetitions,
                          [&] { PALIMPSEST_CALL(conv2d_grad_input(g, y.data(), w.data(), x.data(), false, aligned)); }),
      work / best_seconds(repetitions, [&] {
        PALIMPSEST_CALL(conv2d_grad_weight(g, x.data(), y.data(), dw.data(), false, aligned));
      })};
}

Speeds measure_dnnl(const Conv2dGeometry& g, int repetitions, std::vector<float>& x, std::vector<float>& y) {
  Dnnl dnnl(g, x.data(), y.data());
  const double work = gflop(g);
  return {work / best_seconds(repetitions, [&] { dnnl.forward(); }),
          work / best_seconds(repetitions, [&] { dnnl.grad_input(); }),
          work / best_seconds(repetitions, [&] { dnnl.grad_weight(); })};
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : palimpsest::thread_count();
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 20;
  const std::string filter = argc > 3 ? argv[3] : "";
  const std::int64_t divisor = argc > 4 ? std::atoi(argv[4]) : 1;
  palimpsest::set_thread_count(threads);
#if defined(_OPENMP)
  omp_set_num_threads(threads);
#endif
  std::printf("%s, %d threads, GFLOP/s forward / data / weights\n",
              std::string(to_string(palimpsest::cpu_isa())).c_str(), threads);
  std::printf("%-26s %20s %20s %20s\n", "", "ours", "oneDNN", "ratio");
  for (Case& c : cases()) {
    c.g.n = std::max<std::int64_t>(1, c.g.n / divisor);
    if (c.name.find(filter) == std::string::npos) continue;
    std::vector<float> x = noise(c.g.n * c.g.h_in * c.g.w_in * c.g.c_in);
    std::vector<float> y = noise(c.g.n * c.g.h_out * c.g.w_out * c.g.c_out);
    const Speeds ours = measure_ours(c.g, repetitions, x, y);
    x = noise(static_cast<std::int64_t>(x.size()));  // what ours wrote might hold denormals
    y = noise(static_cast<std::int64_t>(y.size()));
    const Speeds theirs = measure_dnnl(c.g, repetitions, x, y);
    std::printf("%-26s %6.0f %6.0f %6.0f %6.0f %6.0f %6.0f   %5.2f %6.2f %6.2f\n", c.name.c_str(), ours.forward,
                ours.grad_input, ours.grad_weight, theirs.forward, theirs.grad_input, theirs.grad_weight,
                ours.forward / theirs.forward, ours.grad_input / theirs.grad_input,
                ours.grad_weight / theirs.grad_weight);
    std::fflush(stdout);
  }
  return 0;
}
