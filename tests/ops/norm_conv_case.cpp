#include "tests/ops/norm_conv_case.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/philox.hpp>

namespace palimpsest::test {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  const auto same_element = [](T x, T y) {
    return std::memcmp(&x, &y, sizeof x) == 0 || (std::isnan(x) && std::isnan(y));
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_element);
}

kernels::NormConvGeometry as_rows(const NormConvShape& shape) {
  return {shape.rows(), shape.g.c_in, shape.g.c_out, shape.parts(), shape.g.products};
}

/// y, z and dy of all rows; rows x channels, parts joined.
struct Passes {
  std::vector<double> deviation, y, z, dy, dw;
};

/// Calls body(row of x, row of z, tap) for all that the convolution connects.
template <class Body>
void for_each_tap(const kernels::Conv2dGeometry& g, const Body& body) {
  for (std::int64_t n = 0; n < g.n; ++n) {
    for (std::int64_t i = 0; i < g.h_out; ++i) {
      for (std::int64_t j = 0; j < g.w_out; ++j) {
        for (std::int64_t tap = 0; tap < g.kernel_h * g.kernel_w; ++tap) {
          const std::int64_t row = i * g.stride_h + tap / g.kernel_w - g.pad_top;
          const std::int64_t col = j * g.stride_w + tap % g.kernel_w - g.pad_left;
          if (row < 0 || row >= g.h_in || col < 0 || col >= g.w_in) continue;
          body((n * g.h_in + row) * g.w_in + col, (n * g.h_out + i) * g.w_out + j, tap);
        }
      }
    }
  }
}

template <class T>
void convolve(const kernels::Conv2dGeometry& g, const std::vector<T>& w, const std::vector<T>& dz, Passes& p) {
  const std::int64_t taps = g.kernel_h * g.kernel_w;
  for_each_tap(g, [&](std::int64_t in, std::int64_t out, std::int64_t tap) {
    const double* const y = &p.y[at(in * g.c_in)];
    double* const dy = &p.dy[at(in * g.c_in)];
    for (std::int64_t o = 0; o < g.c_out; ++o) {
      const T* const weight = &w[at((o * taps + tap) * g.c_in)];
      double* const dw = &p.dw[at((o * taps + tap) * g.c_in)];
      const double gradient = dz[at(out * g.c_out + o)];
      double sum = 0;
      for (std::int64_t c = 0; c < g.c_in; ++c) {
        sum += y[c] * weight[c];
        dy[c] += gradient * weight[c];
        dw[c] += gradient * y[c];
      }
      p.z[at(out * g.c_out + o)] += sum;
    }
  });
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const NormConvShape& shape) {
  const kernels::Conv2dGeometry& g = shape.g;
  out << g.n << " images of " << g.h_in << "x" << g.w_in << ", " << g.c_in << " channels in " << shape.parts()
      << " parts, " << g.c_out << " outputs";
  if (shape.pointwise()) return out;
  return out << ", kernel " << g.kernel_h << "x" << g.kernel_w << " stride " << g.stride_h << " pad " << g.pad_top;
}

NormConvShape on_rows(std::int64_t rows, const std::vector<std::int64_t>& widths, std::int64_t outputs) {
  const std::int64_t channels = std::accumulate(widths.begin(), widths.end(), std::int64_t{0});
  return {{1, channels, rows, 1, outputs, rows, 1, 1, 1, 1, 1, 0, 0}, widths};
}

NormConvShape on_images(std::int64_t n, std::int64_t side, const std::vector<std::int64_t>& widths,
                        std::int64_t outputs, const Window& window) {
  const auto& [kernel, stride, pad, pad_after] = window;
  const std::int64_t channels = std::accumulate(widths.begin(), widths.end(), std::int64_t{0});
  const std::int64_t out = (side + pad + pad_after - kernel) / stride + 1;
  return {{n, channels, side, side, outputs, out, out, kernel, kernel, stride, stride, pad, pad}, widths};
}

#define NORM_CONV_KERNELS(space)                                                                                       \
  kernels::space::norm_conv_forward<T>, kernels::space::norm_conv_backward<T>, kernels::space::norm_conv2d_forward<T>, \
      kernels::space::norm_conv2d_backward<T>, kernels::space::norm_conv_correct<T>

template <class T>
std::vector<NormConvKernels<T>> cpu_norm_conv_kernels() {
  std::vector<NormConvKernels<T>> all = {{"generic", Device::Cpu, NORM_CONV_KERNELS(generic)}};
#if defined(PALIMPSEST_X86_KERNELS)
  if (cpu_isa() >= Isa::Avx2) all.push_back({"avx2", Device::Cpu, NORM_CONV_KERNELS(avx2)});
  if (cpu_isa() >= Isa::Avx512) all.push_back({"avx512", Device::Cpu, NORM_CONV_KERNELS(avx512)});
#endif
  return all;
}

template <class T>
NormConvKernels<T> cuda_norm_conv_kernels() {
  if constexpr (compiled_for_cuda) return {"cuda", Device::Cuda, NORM_CONV_KERNELS(gpu)};
  throw DeviceError("built without CUDA");
}

template <class T>
NormConvCase<T>::NormConvCase(const NormConvShape& shape, Numbers numbers, Wanted wanted)
    : shape_(shape), numbers_(numbers), wanted_(wanted) {
  draw();
  compute();
}

template <class T>
bool NormConvCase<T>::wanted(std::size_t part) const {
  return wanted_ == Wanted::All || (wanted_ == Wanted::Some && part % 5 != 3 && part % 7 != 0);
}

template <class T>
void NormConvCase<T>::draw() {
  Random random(7, static_cast<std::uint64_t>(shape_.g.c_in));
  const auto integers = [&](std::int64_t count, int most) {
    Values values(at(count));
    for (T& value : values) value = static_cast<T>(random.below(static_cast<std::uint64_t>(2 * most + 1))) - T(most);
    return values;
  };
  const auto reals = [&](std::int64_t count, double low, double high) {
    Values values(at(count));
    for (T& value : values) value = static_cast<T>(low + (high - low) * random.uniform());
    return values;
  };
  const bool whole = numbers_ == Numbers::Integers;
  const auto values = [&](std::int64_t count) { return whole ? integers(count, 3) : reals(count, -1, 1); };
  const kernels::Conv2dGeometry& g = shape_.g;
  mean_ = whole ? integers(g.c_in, 2) : reals(g.c_in, -1, 1);
  rstd_ = whole ? integers(g.c_in, 1) : reals(g.c_in, 0.5, 2);
  for (T& value : rstd_) value = whole ? std::exp2(value) : value;
  gamma_ = whole ? integers(g.c_in, 2) : reals(g.c_in, 0.5, 1.5);
  beta_ = values(g.c_in);
  w_ = values(g.c_out * g.kernel_h * g.kernel_w * g.c_in);
  dz_ = values(shape_.rows_out() * g.c_out);
  dw_ = values(static_cast<std::int64_t>(w_.size()));
  std::int64_t channel = 0;
  for (const std::int64_t width : shape_.widths) {
    x_.push_back(values(shape_.rows() * width));
    gradient_.push_back(values(shape_.rows() * width));
    correction_.push_back(values(2 * width));
    for (std::size_t i = 0; !whole && i < x_.back().size(); ++i) {
      const std::size_t c = at(channel) + i % at(width);
      const auto normalised = [&] { return (double{x_.back()[i]} - mean_[c]) * gamma_[c] * rstd_[c] + beta_[c]; };
      while (std::abs(normalised()) < 1e-2) x_.back()[i] += T(0.25);
    }
    channel += width;
  }
  if (numbers_ == Numbers::Nan) x_[0][x_[0].size() / 2] = std::numeric_limits<T>::quiet_NaN();
}

template <class T>
void NormConvCase<T>::compute() {
  const kernels::Conv2dGeometry& g = shape_.g;
  const auto rows = shape_.rows();
  const auto each = [&](const auto& body) {  // body(part, element of the part, element of all, channel)
    std::int64_t first = 0;
    for (std::size_t part = 0; part < x_.size(); ++part) {
      const std::int64_t width = shape_.widths[part];
      for (std::int64_t i = 0; i < rows * width; ++i) {
        body(part, at(i), at(i / width * g.c_in + first + i % width), at(first + i % width));
      }
      first += width;
    }
  };
  Passes p;
  p.deviation.resize(at(rows * g.c_in));
  p.y = p.dy = p.deviation;
  p.z.resize(dz_.size());
  p.dw.resize(dw_.size());
  if (adds_weights()) p.dw.assign(dw_.begin(), dw_.end());
  each([&](std::size_t part, std::size_t i, std::size_t all, std::size_t c) {
    p.deviation[all] = double{x_[part][i]} - mean_[c];
    const double value = p.deviation[all] * (double{gamma_[c]} * rstd_[c]) + beta_[c];
    p.y[all] = value <= 0 ? 0 : value;
  });
  convolve(g, w_, dz_, p);

  Doubles sum_dy(at(g.c_in));
  Doubles sum_dy_xhat(at(g.c_in));
  std::vector<Doubles> gradients;
  for (const Values& before : gradient_) gradients.emplace_back(before.begin(), before.end());
  each([&](std::size_t part, std::size_t i, std::size_t all, std::size_t c) {
    const double dy = p.y[all] > 0 ? p.dy[all] : 0;
    sum_dy[c] += dy;
    sum_dy_xhat[c] += dy * p.deviation[all] * rstd_[c];
    const double before = accumulates(part) ? gradients[part][i] : 0;
    gradients[part][i] = before + double{gamma_[c]} * rstd_[c] * dy;
  });
  expected_ = {{"z", p.z, true},
               {"y", p.y, true},
               {"sum_dy", sum_dy, true},
               {"sum_dy_xhat", sum_dy_xhat, true},
               {"dw", p.dw, true}};
  std::size_t first = 0;
  for (std::size_t part = 0; part < x_.size(); first += at(shape_.widths[part++])) {
    if (!wanted(part)) continue;
    const std::size_t width = at(shape_.widths[part]);
    Doubles correction(correction_[part].begin(), correction_[part].end());
    for (std::size_t c = 0; c < width; ++c) {
      const double share = double{gamma_[first + c]} * rstd_[first + c] / static_cast<double>(rows);
      const double before = gathered(part) ? 1 : 0;
      correction[c] = before * correction[c] + share * sum_dy[first + c];
      correction[width + c] = before * correction[width + c] + share * rstd_[first + c] * sum_dy_xhat[first + c];
    }
    Doubles corrected = gradients[part];
    for (std::size_t i = 0; i < corrected.size(); ++i) {
      const std::size_t c = i % width;
      corrected[i] -= correction[c] + correction[width + c] * (double{x_[part][i]} - mean_[first + c]);
    }
    expected_.push_back({concat_text("gradient of part ", part), gradients[part], true});
    expected_.push_back({concat_text("correction of part ", part), std::move(correction), false});
    expected_.push_back({concat_text("corrected gradient of part ", part), std::move(corrected), false});
  }
}

template <class T>
struct NormConvCase<T>::Loaded {
  Loaded(const NormConvCase& from, Device where)
      : device(where),
        mean(where, from.mean_),
        rstd(where, from.rstd_),
        gamma(where, from.gamma_),
        beta(where, from.beta_),
        w(where, from.w_),
        n{mean.data(), rstd.data(), gamma.data(), beta.data(), true} {
    for (std::size_t i = 0; i < from.x_.size(); ++i) {
      parts.push_back({});
      parts[i].x = x.emplace_back(where, from.x_[i]).data();
      parts[i].channels = from.shape_.widths[i];
    }
  }

  Device device;
  Guarded<T> mean, rstd, gamma, beta, w;
  kernels::Normalization<T> n;
  std::vector<Guarded<T>> x;
  std::vector<kernels::NormPart<T>> parts;
};

template <class T>
Guarded<T> NormConvCase<T>::workspace(Device device, bool backward) const {
  const kernels::Conv2dGeometry& g = shape_.g;
  const kernels::NormConvGeometry rows = as_rows(shape_);
  using namespace kernels;
  const std::size_t bytes = shape_.pointwise() ? (backward ? norm_conv_backward_workspace(device, rows, sizeof(T))
                                                           : norm_conv_forward_workspace(device, rows, sizeof(T)))
                            : backward         ? norm_conv2d_backward_workspace(device, g, sizeof(T))
                                               : norm_conv2d_forward_workspace(device, g, sizeof(T));
  return {device, bytes / sizeof(T)};
}

template <class T>
typename NormConvCase<T>::Values NormConvCase<T>::run_forward(const NormConvKernels<T>& on, Values* y) const {
  const Loaded in(*this, on.device);
  const Guarded<T> z(on.device, dz_.size()), kept(on.device, at(shape_.rows() * shape_.g.c_in));
  const Guarded<T> scratch = workspace(on.device, false);
  T* const to = y != nullptr ? kept.data() : nullptr;
  if (shape_.pointwise()) {
    on.forward(as_rows(shape_), in.parts.data(), in.n, in.w.data(), z.data(), to, scratch.data());
  } else {
    on.forward2d(shape_.g, shape_.parts(), in.parts.data(), in.n, in.w.data(), z.data(), to, scratch.data());
  }
  scratch.read();
  if (y != nullptr) *y = kept.read();
  return z.read();
}

template <class T>
typename NormConvCase<T>::Results NormConvCase<T>::run_backward(const NormConvKernels<T>& on, const Values* y,
                                                                bool weights) const {
  Loaded in(*this, on.device);
  // Memory that is to be overwritten may hold anything.
  const auto load = [&](const Values& before, bool adds) {
    return adds ? Guarded<T>(on.device, before) : Guarded<T>(on.device, before.size());
  };
  std::vector<Guarded<T>> gradient, correction;
  for (std::size_t i = 0; i < x_.size(); ++i) {
    in.parts[i].accumulate = accumulates(i);
    in.parts[i].gathered = gathered(i);
    gradient.push_back(load(gradient_[i], accumulates(i)));
    correction.push_back(load(correction_[i], gathered(i)));
    if (!wanted(i)) continue;
    in.parts[i].gradient = gradient.back().data();
    in.parts[i].correction = correction.back().data();
  }
  const Guarded<T> dz(on.device, dz_), kept(on.device, y != nullptr ? *y : Values()), dw = load(dw_, adds_weights());
  const Guarded<T> sum_dy(on.device, mean_.size()), sum_dy_xhat(on.device, mean_.size());
  const Guarded<T> scratch = workspace(on.device, true);
  T* const to = weights ? dw.data() : nullptr;
  const T* const from = y != nullptr ? kept.data() : nullptr;
  if (shape_.pointwise()) {
    on.backward(as_rows(shape_), in.parts.data(), in.n, in.w.data(), from, dz.data(), to, adds_weights(), sum_dy.data(),
                sum_dy_xhat.data(), scratch.data());
  } else {
    on.backward2d(shape_.g, shape_.parts(), in.parts.data(), in.n, in.w.data(), from, dz.data(), to, adds_weights(),
                  sum_dy.data(), sum_dy_xhat.data(), scratch.data());
  }
  scratch.read();
  Results results = {{"sum_dy", sum_dy.read()}, {"sum_dy_xhat", sum_dy_xhat.read()}, {"dw", dw.read()}};
  std::size_t first = 0;
  for (std::size_t i = 0; i < x_.size(); first += at(shape_.widths[i++])) {
    if (!wanted(i)) continue;
    const kernels::NormPart<T>& part = in.parts[i];
    results.push_back({concat_text("gradient of part ", i), gradient[i].read()});
    results.push_back({concat_text("correction of part ", i), correction[i].read()});
    const auto own_mean = mean_.begin() + static_cast<std::ptrdiff_t>(first);
    const Guarded<T> mean(on.device, Values(own_mean, own_mean + static_cast<std::ptrdiff_t>(shape_.widths[i])));
    on.correct(shape_.rows(), part.channels, part.x, mean.data(), part.correction, part.gradient);
    results.push_back({concat_text("corrected gradient of part ", i), gradient[i].read()});
  }
  return results;
}

template <class T>
typename NormConvCase<T>::Results NormConvCase<T>::run(const NormConvKernels<T>& on) const {
  Values y;
  Results results = {{"z", run_forward(on, nullptr)}};
  EXPECT_TRUE(same(run_forward(on, &y), results[0].values)) << "z has other bits where y is kept";
  results.push_back({"y", y});
  const Results backward = run_backward(on, nullptr, true);
  const auto expect_same = [&](const Values* kept, bool weights, const char* where) {
    const Results other = run_backward(on, kept, weights);
    for (std::size_t i = 0; i < other.size(); ++i) {
      if (other[i].what == "dw" && !weights) continue;
      EXPECT_TRUE(same(other[i].values, backward[i].values)) << other[i].what << " has other bits " << where;
    }
  };
  expect_same(&y, true, "where y is kept");
  expect_same(nullptr, false, "where nobody wants dw");
  expect_same(&y, false, "where y is kept and nobody wants dw");
  results.insert(results.end(), backward.begin(), backward.end());
  return results;
}

template <class T>
void NormConvCase<T>::check(const Results& results) const {
  ASSERT_EQ(results.size(), expected_.size());
  for (std::size_t r = 0; r < results.size(); ++r) {
    const auto& [what, expected, exact] = expected_[r];
    ASSERT_EQ(results[r].what, what);
    ASSERT_EQ(results[r].values.size(), expected.size());
    double largest = 0;
    for (const double value : expected) largest = std::isnan(value) ? largest : std::max(largest, std::abs(value));
    const double rounding = (sizeof(T) == 4 ? 1e-5 : 1e-13) * largest;
    const double tolerance = exact && numbers_ == Numbers::Integers ? 0 : rounding;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double actual = results[r].values[i];
      if (std::isnan(expected[i]) && std::isnan(actual)) continue;
      const double rounded = static_cast<double>(static_cast<T>(expected[i]));
      ASSERT_LE(std::abs(actual - rounded), tolerance)
          << what << ": element " << i << " of " << expected.size() << " is " << actual << ", expected " << expected[i];
    }
  }
}

template class NormConvCase<float>;
template class NormConvCase<double>;
template std::vector<NormConvKernels<float>> cpu_norm_conv_kernels();
template std::vector<NormConvKernels<double>> cpu_norm_conv_kernels();
template NormConvKernels<float> cuda_norm_conv_kernels();
template NormConvKernels<double> cuda_norm_conv_kernels();

}  // namespace palimpsest::test
