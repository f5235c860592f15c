#pragma once

// A fused convolution (ops/kernels/norm_conv.hpp) as the tests of its kernels see it, whatever they run on: operands,
// what should come of them by plain loops in double, and a run of the kernels with every choice that must not change a
// bit.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/ops/kernels/norm_conv.hpp>

namespace palimpsest::test {

/// The convolution of an input that comes in parts of these widths, which add up to g.c_in. norm_conv2d_* are
/// for outputs that see other pixels than their own.
struct NormConvShape {
  kernels::Conv2dGeometry g;
  std::vector<std::int64_t> widths;

  bool pointwise() const { return g.kernel_h == 1 && g.kernel_w == 1 && rows() == rows_out(); }
  std::int64_t rows() const { return g.n * g.h_in * g.w_in; }
  std::int64_t rows_out() const { return g.n * g.h_out * g.w_out; }
  std::int64_t parts() const { return static_cast<std::int64_t>(widths.size()); }
};
std::ostream& operator<<(std::ostream& out, const NormConvShape& shape);

/// A 1x1 convolution.
NormConvShape on_rows(std::int64_t rows, const std::vector<std::int64_t>& widths, std::int64_t outputs);

/// Any other, of square images: `pad` pixels before and `pad_after` behind.
struct Window {
  std::int64_t kernel = 3;
  std::int64_t stride = 1;
  std::int64_t pad = 1;
  std::int64_t pad_after = 1;
};
NormConvShape on_images(std::int64_t n, std::int64_t side, const std::vector<std::int64_t>& widths,
                        std::int64_t outputs, const Window& window = {});

/// The kernels of an instruction set, or CUDA's.
template <class T>
struct NormConvKernels {
  std::string name;
  Device device;
  decltype(&kernels::generic::norm_conv_forward<T>) forward;
  decltype(&kernels::generic::norm_conv_backward<T>) backward;
  decltype(&kernels::generic::norm_conv2d_forward<T>) forward2d;
  decltype(&kernels::generic::norm_conv2d_backward<T>) backward2d;
  decltype(&kernels::generic::norm_conv_correct<T>) correct;
};

/// One for each instruction set that this machine has.
template <class T>
std::vector<NormConvKernels<T>> cpu_norm_conv_kernels();
/// Throws DeviceError in a build without CUDA.
template <class T>
NormConvKernels<T> cuda_norm_conv_kernels();

/// The kind of the operands. Sums of small integers are exact, whatever their order, and many values lie on the kink
/// of the ReLU; real numbers keep away from it. Nan: real, with a NaN in the first part.
enum class Numbers { Integers, Real, Nan };

/// The parts whose gradients are asked for. They are added to earlier ones for some parts and not for others.
enum class Wanted { All, Some, None };

/// Elements on a device, of which reads and writes behind the last one show: NaN lies there, or nothing at all where
/// the address sanitizer looks on.
template <class T>
class Guarded {
 public:
  Guarded(Device device, const std::vector<T>& values) : count_(values.size()), memory_(device, bytes(), Tag::Data) {
    std::vector<std::byte> all(bytes(), filling);
    if (count_ > 0) std::memcpy(all.data(), values.data(), count_ * sizeof(T));
    copy_bytes(memory_.data(), device, all.data(), Device::Cpu, all.size());
  }
  /// NaN.
  Guarded(Device device, std::size_t count) : count_(count), memory_(device, bytes(), Tag::Data) {
    const std::vector<std::byte> all(bytes(), filling);
    copy_bytes(memory_.data(), device, all.data(), Device::Cpu, all.size());
  }

  T* data() const { return memory_.template as<T>(); }

  std::vector<T> read() const {
    std::vector<std::byte> all(bytes());
    copy_bytes(all.data(), Device::Cpu, memory_.data(), memory_.device(), all.size());
    const auto guard = all.begin() + static_cast<std::ptrdiff_t>(count_ * sizeof(T));
    EXPECT_TRUE(std::all_of(guard, all.end(), [](std::byte byte) { return byte == filling; }))
        << "written behind a buffer of " << count_ << " elements";
    std::vector<T> values(count_);
    if (count_ > 0) std::memcpy(values.data(), all.data(), count_ * sizeof(T));
    return values;
  }

 private:
  static constexpr std::byte filling{0xFF};
#if defined(__SANITIZE_ADDRESS__)
  static constexpr std::size_t guard_bytes = 0;
#else
  static constexpr std::size_t guard_bytes = 256;
#endif
  std::size_t bytes() const { return count_ * sizeof(T) + guard_bytes; }

  std::size_t count_;
  Buffer memory_;
};

template <class T>
class NormConvCase {
 public:
  struct Result {
    std::string what;
    std::vector<T> values;
  };
  /// All that the kernels write, in a fixed order.
  using Results = std::vector<Result>;

  NormConvCase(const NormConvShape& shape, Numbers numbers, Wanted wanted);

  /// Forward and backward, with and without y and the weights' gradient, each in buffers of the exact size. Fails where
  /// one of these choices changes a bit or something is written behind a buffer.
  Results run(const NormConvKernels<T>& on) const;
  /// Fails where results are not those of the plain loops: exactly of integers, else but for rounding.
  void check(const Results& results) const;

 private:
  using Values = std::vector<T>;
  using Doubles = std::vector<double>;
  struct Expected {
    std::string what;
    Doubles values;
    bool exact;  // of integers
  };

  struct Loaded;

  void draw();
  void compute();
  bool wanted(std::size_t part) const;
  static bool accumulates(std::size_t part) { return part % 2 == 1; }
  static bool gathered(std::size_t part) { return part % 3 == 1; }
  bool adds_weights() const { return shape_.g.c_out % 2 == 1; }
  Guarded<T> workspace(Device device, bool backward) const;
  Values run_forward(const NormConvKernels<T>& on, Values* y) const;
  Results run_backward(const NormConvKernels<T>& on, const Values* y, bool weights) const;

  NormConvShape shape_;
  Numbers numbers_;
  Wanted wanted_;
  std::vector<Values> x_, gradient_, correction_;  // of each part; the last two are what was there before
  Values mean_, rstd_, gamma_, beta_, w_, dz_, dw_;
  std::vector<Expected> expected_;
};

}  // namespace palimpsest::test
