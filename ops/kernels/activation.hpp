#pragma once

// Activations: functions of one element each, as objects that every instruction set and CUDA compile into one loop, and
// the list of them. Adding one takes an object here, an entry in the list, a declaration in ops/activation.hpp and a
// case in tests/ops/op_cases_activation.cpp.

#include <cstdint>

#include <palimpsest/core/kernel.hpp>

namespace palimpsest::kernels {

/// An object has
/// - `name`, as messages and reports print it;
/// - `reads`: what the gradient is computed from: the input x; the result y (the op then keeps y, and may work in
///   place); or neither (it keeps nothing, and may work in place);
/// - `operations` of one element, forward or backward; a function of the C library counts 20;
/// - value(x) = y;
/// - gradient(kept, dy) = dx, where `kept` is x or y as `reads` says, and anything where that is nothing.
/// All its functions are PALIMPSEST_INLINE. They use builtins, which are calls of the C library or CUDA's, and no
/// <cmath>.

/// The builtin of T's precision.
#define PALIMPSEST_BUILTIN(function, x) \
  (sizeof(x) == sizeof(float) ? static_cast<T>(__builtin_##function##f(x)) : static_cast<T>(__builtin_##function(x)))

/// The value that the gradient of a function of one element is computed from, beside the gradient of its result.
enum class Reads { Input, Output, Nothing };

struct Relu {
  static constexpr const char* name = "relu";
  static constexpr Reads reads = Reads::Output;
  static constexpr double operations = 1;

  /// -0 becomes 0.
  template <class T>
  PALIMPSEST_INLINE T value(T x) const {
    return x <= 0 ? 0 : x;
  }
  template <class T>
  PALIMPSEST_INLINE T gradient(T y, T dy) const {
    return y > 0 ? dy : 0;
  }
};

struct LeakyRelu {
  static constexpr const char* name = "leaky_relu";
  static constexpr Reads reads = Reads::Output;
  static constexpr double operations = 2;

  double slope;  // at least 0: y has the sign of x

  template <class T>
  PALIMPSEST_INLINE T value(T x) const {
    const T sloped = static_cast<T>(slope) * x;
    return x > 0 ? x : sloped;
  }
  template <class T>
  PALIMPSEST_INLINE T gradient(T y, T dy) const {
    const T sloped = static_cast<T>(slope) * dy;
    return y > 0 ? dy : sloped;
  }
};

struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  static constexpr Reads reads = Reads::Output;
  static constexpr double operations = 22;

  template <class T>
  PALIMPSEST_INLINE T value(T x) const {
    return 1 / (1 + PALIMPSEST_BUILTIN(exp, -x));
  }
  template <class T>
  PALIMPSEST_INLINE T gradient(T y, T dy) const {
    return dy * (y * (1 - y));
  }
};

struct Tanh {
  static constexpr const char* name = "tanh";
  static constexpr Reads reads = Reads::Output;
  static constexpr double operations = 20;

  template <class T>
  PALIMPSEST_INLINE T value(T x) const {
    return PALIMPSEST_BUILTIN(tanh, x);
  }
  template <class T>
  PALIMPSEST_INLINE T gradient(T y, T dy) const {
    return dy * ((1 - y) * (1 + y));
  }
};

struct Gelu {
  static constexpr const char* name = "gelu";
  static constexpr Reads reads = Reads::Input;
  static constexpr double operations = 25;

  /// The standard normal distribution function; erfc keeps its digits where 1 + erf would cancel.
  template <class T>
  PALIMPSEST_INLINE T below(T x) const {
    return PALIMPSEST_BUILTIN(erfc, x * static_cast<T>(-0.70710678118654752440)) / 2;
  }
  template <class T>
  PALIMPSEST_INLINE T value(T x) const {
    return x * below(x);
  }
  template <class T>
  PALIMPSEST_INLINE T gradient(T x, T dy) const {
    const T density = PALIMPSEST_BUILTIN(exp, x * x / -2) * static_cast<T>(0.39894228040143267794);
    return dy * (below(x) + x * density);
  }
};

struct Silu {
  static constexpr const char* name = "silu";
  static constexpr Reads reads = Reads::Input;
  static constexpr double operations = 25;

  template <class T>
  PALIMPSEST_INLINE T value(T x) const {
    return x / (1 + PALIMPSEST_BUILTIN(exp, -x));
  }
  template <class T>
  PALIMPSEST_INLINE T gradient(T x, T dy) const {
    const T sigmoid = Sigmoid{}.value(x);
    return dy * (sigmoid * (1 + x * (1 - sigmoid)));
  }
};

struct Scale {
  static constexpr const char* name = "scale";
  static constexpr Reads reads = Reads::Nothing;
  static constexpr double operations = 1;

  double factor;

  template <class T>
  PALIMPSEST_INLINE T value(T x) const {
    return static_cast<T>(factor) * x;
  }
  template <class T>
  PALIMPSEST_INLINE T gradient(T, T dy) const {
    return static_cast<T>(factor) * dy;
  }
};

/// F(object, function of ops/activation.hpp, type of the object's parameter if it has one).
#define PALIMPSEST_ACTIVATIONS(F)  \
  F(Relu, relu)                    \
  F(LeakyRelu, leaky_relu, double) \
  F(Sigmoid, sigmoid)              \
  F(Tanh, tanh)                    \
  F(Gelu, gelu)                    \
  F(Silu, silu)                    \
  F(Scale, scale, double)

PALIMPSEST_KERNELS(

    /// y = function.value(x) over `count` contiguous elements, T = float and double. y may be x.
    template <class Function, class T> void activate(Function function, std::int64_t count, const T* x, T* y);

    /// dx = function.gradient(kept, dy). dx may be dy (unless it accumulates). Adds to dx where `accumulate`. kept may
    /// be dy for a function that reads nothing.
    template <class Function, class T>
    void activate_backward(Function function, std::int64_t count, const T* kept, const T* dy, T* dx, bool accumulate);)

/// Instantiates the loops for an activation; a device's file does it for the list.
#define PALIMPSEST_ACTIVATION_KERNELS_FOR(Function, T)          \
  template void activate(Function, std::int64_t, const T*, T*); \
  template void activate_backward(Function, std::int64_t, const T*, const T*, T*, bool);
#define PALIMPSEST_ACTIVATION_KERNELS(Function, ...) \
  PALIMPSEST_ACTIVATION_KERNELS_FOR(Function, float) \
  PALIMPSEST_ACTIVATION_KERNELS_FOR(Function, double)

}  // namespace palimpsest::kernels
