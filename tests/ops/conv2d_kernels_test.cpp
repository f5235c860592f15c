// The convolution kernels against a plain loop, for every instruction set that this machine has.

#include <palimpsest/core/types.hpp>
#include <palimpsest/ops/kernels/conv2d.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <palimpsest/core/kernel.hpp>
#include <palimpsest/core/parallel.hpp>

namespace palimpsest::kernels {

std::ostream& operator<<(std::ostream& out, const Conv2dGeometry& g) {
  return out << "x (" << g.n << ", " << g.h_in << ", " << g.w_in << ", " << g.c_in << ") y (" << g.h_out << ", "
             << g.w_out << ", " << g.c_out << ") kernel " << g.kernel_h << "x" << g.kernel_w << " stride " << g.stride_h
             << "x" << g.stride_w << " pad " << g.pad_top << ", " << g.pad_left;
}

namespace {

/// The three kernels of one instruction set.
template <class T>
struct Kernels {
  std::string name;
  void (*forward)(const Conv2dGeometry&, const T*, const T*, T*, T*);
  void (*grad_input)(const Conv2dGeometry&, const T*, const T*, T*, bool, T*);
  void (*grad_weight)(const Conv2dGeometry&, const T*, const T*, T*, bool, T*);
};

template <class T>
std::vector<Kernels<T>> available_kernels() {
  std::vector<Kernels<T>> all = {
      {"generic", generic::conv2d_forward<T>, generic::conv2d_grad_input<T>, generic::conv2d_grad_weight<T>}};
#if defined(PALIMPSEST_X86_KERNELS)
  if (cpu_isa() >= Isa::Avx2) {
    all.push_back({"avx2", avx2::conv2d_forward<T>, avx2::conv2d_grad_input<T>, avx2::conv2d_grad_weight<T>});
  }
  if (cpu_isa() >= Isa::Avx512) {
    all.push_back({"avx512", avx512::conv2d_forward<T>, avx512::conv2d_grad_input<T>, avx512::conv2d_grad_weight<T>});
  }
#endif
  return all;
}

std::int64_t x_size(const Conv2dGeometry& g) { return g.n * g.h_in * g.w_in * g.c_in; }
std::int64_t y_size(const Conv2dGeometry& g) { return g.n * g.h_out * g.w_out * g.c_out; }
std::int64_t w_size(const Conv2dGeometry& g) { return g.c_out * g.kernel_h * g.kernel_w * g.c_in; }

/// Exactly so many elements, so that the address sanitizer sees a read past the end. Small integers: sums are exact.
template <class T>
std::unique_ptr<T[]> integers(std::int64_t size, std::uint32_t seed) {
  auto values = std::make_unique<T[]>(static_cast<std::size_t>(size));
  std::uint32_t state = seed * 2654435761U + 12345U;
  for (std::int64_t i = 0; i < size; ++i) {
    state = state * 1664525U + 1013904223U;
    values[i] = static_cast<T>(static_cast<int>((state >> 16) % 7U) - 3);
  }
  return values;
}

/// Calls body(index in x, index in w, index in y) for every product of the convolution.
template <class Body>
void for_each_product(const Conv2dGeometry& g, const Body& body) {
  for (std::int64_t n = 0; n < g.n; ++n)
    for (std::int64_t i = 0; i < g.h_out; ++i)
      for (std::int64_t j = 0; j < g.w_out; ++j)
        for (std::int64_t r = 0; r < g.kernel_h; ++r)
          for (std::int64_t s = 0; s < g.kernel_w; ++s) {
            const std::int64_t row = i * g.stride_h + r - g.pad_top;
            const std::int64_t col = j * g.stride_w + s - g.pad_left;
            if (row < 0 || row >= g.h_in || col < 0 || col >= g.w_in) continue;
            for (std::int64_t o = 0; o < g.c_out; ++o)
              for (std::int64_t c = 0; c < g.c_in; ++c) {
                body(((n * g.h_in + row) * g.w_in + col) * g.c_in + c,
                     ((o * g.kernel_h + r) * g.kernel_w + s) * g.c_in + c,
                     ((n * g.h_out + i) * g.w_out + j) * g.c_out + o);
              }
          }
}

/// A workspace of exactly the bytes asked for, 64-byte aligned and full of NaN.
template <class T>
struct Workspace {
  explicit Workspace(std::size_t bytes) : data(static_cast<T*>(::operator new (bytes, std::align_val_t{64}))) {
    std::memset(static_cast<void*>(data), 0xff, bytes);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { ::operator delete (data, std::align_val_t{64}); }
  T* data;
};

/// Runs `kernel` into a copy of `start`; the result must be `expected`.
template <class T>
void expect_result(const std::string& what, std::int64_t size, const T* start, const T* expected,
                   std::size_t workspace_bytes, const std::function<void(T*, T*)>& kernel) {
  auto result = std::make_unique<T[]>(static_cast<std::size_t>(size));
  std::memcpy(result.get(), start, static_cast<std::size_t>(size) * sizeof(T));
  const Workspace<T> workspace(workspace_bytes);
  kernel(result.get(), workspace.data);
  for (std::int64_t i = 0; i < size; ++i) {
    ASSERT_EQ(result[i], expected[i]) << what << ", " << thread_count() << " threads, element " << i << " of " << size;
  }
}

/// A convolution's operands and what its kernels should give.
template <class T>
struct Expected {
  Expected(const Conv2dGeometry& geometry, bool accumulate)
      : g(geometry),
        accumulate(accumulate),
        x(integers<T>(x_size(g), 1)),
        w(integers<T>(w_size(g), 2)),
        dy(integers<T>(y_size(g), 3)),
        start_x(integers<T>(x_size(g), 4)),
        start_w(integers<T>(w_size(g), 5)),
        start_y(integers<T>(y_size(g), 6)),
        y(std::make_unique<T[]>(static_cast<std::size_t>(y_size(g)))),
        dx(std::make_unique<T[]>(static_cast<std::size_t>(x_size(g)))),
        dw(std::make_unique<T[]>(static_cast<std::size_t>(w_size(g)))) {
    for (std::int64_t i = 0; accumulate && i < x_size(g); ++i) dx[i] = start_x[i];
    for (std::int64_t i = 0; accumulate && i < w_size(g); ++i) dw[i] = start_w[i];
    for_each_product(g, [&](std::int64_t ix, std::int64_t iw, std::int64_t iy) {
      y[iy] += x[ix] * w[iw];
      dx[ix] += dy[iy] * w[iw];
      dw[iw] += dy[iy] * x[ix];
    });
  }

  void check(const Kernels<T>& k) const {
    const std::string name = k.name + (accumulate ? " accumulate" : "");
    if (!accumulate) {
      expect_result<T>(name + " forward", y_size(g), start_y.get(), y.get(),
                       conv2d_forward_workspace(Device::Cpu, g, sizeof(T)),
                       [&](T* to, T* space) { k.forward(g, x.get(), w.get(), to, space); });
    }
    expect_result<T>(name + " grad_input", x_size(g), start_x.get(), dx.get(),
                     conv2d_grad_input_workspace(Device::Cpu, g, sizeof(T)),
                     [&](T* to, T* space) { k.grad_input(g, dy.get(), w.get(), to, accumulate, space); });
    expect_result<T>(name + " grad_weight", w_size(g), start_w.get(), dw.get(),
                     conv2d_grad_weight_workspace(Device::Cpu, g, sizeof(T)),
                     [&](T* to, T* space) { k.grad_weight(g, x.get(), dy.get(), to, accumulate, space); });
  }

  Conv2dGeometry g;
  bool accumulate;
  std::unique_ptr<T[]> x, w, dy, start_x, start_w, start_y, y, dx, dw;
};

template <class T>
void check(const Conv2dGeometry& g) {
  SCOPED_TRACE(::testing::Message() << g << (sizeof(T) == 4 ? " float" : " double"));
  const Expected<T> set(g, false);
  const Expected<T> added(g, true);
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    for (const Kernels<T>& k : available_kernels<T>()) {
      set.check(k);
      added.check(k);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

void check_both(const Conv2dGeometry& g) {
  check<float>(g);
  check<double>(g);
}

/// A square convolution with `pad` before and `pad_after` behind.
Conv2dGeometry square(std::int64_t n, std::int64_t c_in, std::int64_t c_out, std::int64_t side, std::int64_t kernel,
                      std::int64_t stride, std::int64_t pad, std::int64_t pad_after) {
  const std::int64_t out = (side + pad + pad_after - kernel) / stride + 1;
  return {n, c_in, side, side, c_out, out, out, kernel, kernel, stride, stride, pad, pad};
}

class Conv2dKernels : public ::testing::Test {
 protected:
  void TearDown() override { set_thread_count(threads_); }

 private:
  int threads_ = thread_count();
};

TEST_F(Conv2dKernels, EveryChannelRemainder) {
  for (std::int64_t c = 1; c <= 18; ++c) {
    check_both(square(2, c, 19 - c, 5, 3, 1, 1, 1));
    check_both(square(2, c, 12, 4, 1, 1, 0, 0));
    check_both(square(1, 12, c, 9, 3, 1, 1, 1));
  }
  for (const std::int64_t c : {24, 31, 33, 48, 49, 60, 65, 108}) {
    check<float>(square(1, c, 12, 6, 3, 1, 1, 1));
    check<float>(square(1, 5, c, 6, 3, 1, 1, 1));
    check<float>(square(3, c, 48, 4, 1, 1, 0, 0));
    check<float>(square(1, 17, c, 3, 1, 1, 0, 0));
  }
}

TEST_F(Conv2dKernels, EveryWidth) {
  for (std::int64_t side = 1; side <= 19; ++side) {
    check<float>(square(3, 3, 10, side, 3, 1, 1, 1));
    check<float>(square(2, 8, 12, side, 3, 1, 1, 1));
    check<float>(square(1, 16, 17, side, 3, 1, 1, 1));
  }
  for (const std::int64_t side : {24, 32, 33, 41}) check<float>(square(1, 8, 12, side, 3, 1, 1, 1));
}

TEST_F(Conv2dKernels, Strides) {
  for (const std::int64_t kernel : {1, 2, 3, 5, 7}) {
    for (const std::int64_t stride : {2, 3, 4}) {
      for (const std::int64_t pad : {0, 1, 3}) {
        check<float>(square(2, 5, 7, 11, kernel, stride, pad, pad));
        check<float>(square(1, 16, 20, 8, kernel, stride, pad, pad + 1));
      }
    }
  }
  check_both(square(2, 16, 32, 8, 3, 2, 0, 1));  // pads only behind, as in a reversible network's downsampling
  check_both(square(1, 3, 16, 21, 7, 2, 3, 3));  // an ImageNet stem
}

TEST_F(Conv2dKernels, AwkwardGeometries) {
  const Conv2dGeometry geometries[] = {
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0},       {2, 3, 1, 17, 5, 1, 17, 1, 5, 1, 1, 0, 2},  // one row
      {2, 3, 17, 1, 5, 17, 1, 5, 1, 1, 1, 2, 0},                                                 // one column
      {1, 4, 5, 7, 6, 4, 3, 2, 3, 1, 2, 0, 0},                                                   // different everything
      {1, 4, 3, 3, 6, 11, 11, 3, 3, 1, 1, 5, 5},      // pad larger than the kernel
      {2, 5, 3, 4, 3, 5, 7, 2, 3, 2, 1, 6, 4},        // the same, strided
      {1, 2, 4, 4, 3, 4, 4, 1, 1, 1, 1, 1, 1},        // 1x1 shifted out of the image
      {1, 2, 4, 4, 3, 6, 6, 1, 1, 1, 1, 1, 1},        // 1x1 with a border of zeros
      {1, 2, 4, 4, 3, 5, 5, 2, 2, 1, 1, 1, 1},        // an even kernel
      {1, 2, 9, 9, 3, 3, 3, 2, 2, 1, 1, -3, -2},      // a crop
      {1, 2, 9, 9, 3, 2, 2, 2, 2, 2, 3, -3, -2},      // a strided crop
      {3, 7, 6, 6, 9, 2, 2, 6, 6, 1, 1, 0, 1},        // kernel as large as the image
      {1, 3, 4, 4, 2, 9, 9, 12, 12, 1, 1, 8, 8},      // and larger
      {1, 6, 7, 7, 5, 3, 3, 1, 1, 3, 3, 1, 1},        // stride larger than the kernel, with pad
      {2, 1, 6, 300, 3, 6, 300, 3, 3, 1, 1, 1, 1},    // wide
      {1, 16, 2, 700, 12, 2, 700, 3, 3, 1, 1, 1, 1},  // wider than the scratch
  };
  for (const Conv2dGeometry& g : geometries) check_both(g);
}

TEST_F(Conv2dKernels, MoreThanTheScratchHolds) {
  check<float>(square(1, 700, 17, 5, 3, 1, 1, 1));  // blocks of channels
  check<float>(square(1, 18, 530, 4, 3, 1, 1, 1));
  check<float>(square(1, 2300, 4, 2, 1, 1, 0, 0));
  check<double>(square(1, 300, 12, 5, 3, 1, 1, 1));
  // One tap at a time: the kernel is far larger than the image, so that few of its taps matter.
  check<float>({1, 2, 3, 4, 3, 2, 3, 160, 160, 1, 1, 100, 90});
  check<float>({1, 3, 5, 2, 2, 3, 2, 180, 180, 2, 1, 120, 100});
}

// Few output channels, wide images: the kernels with pixels in the lanes.
TEST_F(Conv2dKernels, FewOutputChannels) {
  for (const std::int64_t c_out : {1, 2, 3, 5, 7, 10, 12, 19, 24}) {
    check<float>(square(1, 9, c_out, 16, 3, 1, 1, 1));
    check<float>(square(1, 17, c_out, 15, 2, 1, 0, 1));
  }
  check_both(square(2, 20, 12, 32, 3, 1, 1, 1));
  check_both(square(1, 6, 4, 29, 5, 1, 2, 2));
  check_both({1, 12, 13, 24, 3, 17, 40, 3, 3, 1, 1, 3, 9});      // pads larger than the kernel
  check_both({1, 12, 13, 24, 3, 5, 16, 3, 3, 1, 1, -2, -3});     // a crop
  check_both({2, 8, 3, 20, 12, 3, 48, 3, 30, 1, 1, 1, 14});      // mostly padding
  check<float>({1, 100, 12, 64, 12, 12, 64, 3, 3, 1, 1, 1, 1});  // bands of a few rows
}

TEST_F(Conv2dKernels, ManyImages) {
  check<float>(square(37, 12, 12, 4, 3, 1, 1, 1));
  check<float>(square(33, 16, 16, 8, 3, 1, 1, 1));
  check<float>(square(21, 20, 48, 5, 1, 1, 0, 0));
  check<float>(square(18, 16, 32, 8, 3, 2, 0, 1));
}

}  // namespace
}  // namespace palimpsest::kernels
