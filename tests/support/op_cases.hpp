#pragma once

// One case per op and configuration: its inputs, how to call it, and a naive forward to compare with. Every test
// of all ops (gradients, precision, threads, memory, devices) is driven from this list. The shapes are awkward
// on purpose: one element, batches of one, one channel, primes, windows that do not divide.

#include <cstdint>
#include <exception>
#include <functional>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/core/philox.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest::test {

/// A tensor as the naive references see it: elements in logical order (N, C, H, W), in double.
struct Array {
  Shape shape;
  std::vector<double> values;

  double at(std::int64_t n, std::int64_t c, std::int64_t h = 0, std::int64_t w = 0) const {
    return values[index(n, c, h, w)];
  }
  double& at(std::int64_t n, std::int64_t c, std::int64_t h = 0, std::int64_t w = 0) {
    return values[index(n, c, h, w)];
  }

 private:
  std::size_t index(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
    return static_cast<std::size_t>(((n * shape.c() + c) * shape.h() + h) * shape.w() + w);
  }
};

/// Draws the elements of an input.
using Fill = std::function<std::vector<double>(std::int64_t count, Random& random)>;

/// In [-1, 1).
std::vector<double> uniform(std::int64_t count, Random& random);
/// Whole numbers from -3 to 3: sums and products of them are exact in float32.
std::vector<double> integers(std::int64_t count, Random& random);
/// All distinct, at least 1/32 apart and 1/64 away from zero: safe from the kinks of a maximum.
std::vector<double> spaced(std::int64_t count, Random& random);

struct OpInput {
  Shape shape;
  Fill fill = uniform;
  bool gradient = true;
  bool labels = false;  // int32
};

/// Calls the op. State that the op changes is made inside, so that every call does the same.
using OpFunction = std::function<std::vector<Tensor>(std::span<const Tensor> inputs)>;

struct OpCase {
  std::string name;  // of letters, digits and underscores
  std::vector<OpInput> inputs;
  OpFunction run;
  /// The outputs by the plainest possible loop.
  std::function<std::vector<Array>(std::span<const Array> inputs)> reference;
  /// The function whose gradient it is, if that is not the derivative (rounding).
  OpFunction straight_through;
  /// On integers, float32 results and gradients are exact.
  bool exact_on_integers = false;
  /// How far float32 may be from float64, relative to the largest magnitude in the tensor.
  double float32_tolerance = 1e-5;
  /// Several ops that become one where they are recorded: where they are not, results differ by rounding.
  bool fuses = false;
  /// A convolution that on CUDA makes the columns of one image at a time.
  OpFunction image_by_image = nullptr;
};

std::ostream& operator<<(std::ostream& out, const OpCase& op_case);

/// All cases, made once.
const std::vector<OpCase>& op_cases();

/// The inputs of a case as leaves; the elements are the same for every dtype and device, and exact in float32. Inputs
/// of `replacement`'s kind instead of the case's own where it is given (labels excepted).
std::vector<Tensor> make_inputs(const OpCase& op_case, Dtype dtype, Device where = device(),
                                const Fill& replacement = nullptr);

/// A call that must be refused.
struct BadCall {
  std::string name;
  std::function<void()> call;
  std::function<bool(const std::exception&)> has_type;  // whether an exception is of the type expected
  std::string message;                                  // part of the exception's message
};

std::ostream& operator<<(std::ostream& out, const BadCall& bad_call);

const std::vector<BadCall>& bad_calls();

}  // namespace palimpsest::test
