#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string_view>

#include <palimpsest/core/error.hpp>

namespace palimpsest {

/// Element types. Activations, parameters and gradients are Float32 or Float64; labels are Int32.
enum class Dtype : std::uint8_t { Float32, Float64, Int32 };

/// Bytes of one element.
constexpr std::size_t size_of(Dtype dtype) { return dtype == Dtype::Float64 ? 8 : 4; }

constexpr std::string_view to_string(Dtype dtype) {
  switch (dtype) {
    case Dtype::Float32:
      return "float32";
    case Dtype::Float64:
      return "float64";
    case Dtype::Int32:
      return "int32";
  }
  return "?";
}

inline std::ostream& operator<<(std::ostream& out, Dtype dtype) { return out << to_string(dtype); }

/// The Dtype of a C++ element type.
template <class T>
struct DtypeOf {
  static_assert(
      sizeof(T) == 0,
      "the elements of a tensor are float, double or std::int32_t: convert others first, labels to std::int32_t");
  static constexpr Dtype value = Dtype::Float32;
};
template <>
struct DtypeOf<float> {
  static constexpr Dtype value = Dtype::Float32;
};
template <>
struct DtypeOf<double> {
  static constexpr Dtype value = Dtype::Float64;
};
template <>
struct DtypeOf<std::int32_t> {
  static constexpr Dtype value = Dtype::Int32;
};
template <class T>
inline constexpr Dtype dtype_of = DtypeOf<T>::value;

/// Calls `body` with a zero of the C++ type of a floating dtype: `with_float(dtype, "relu", [&](auto zero) { using T =
/// decltype(zero); ... })`. Throws DtypeError, naming `op`, for any other dtype.
template <class Body>
decltype(auto) with_float(Dtype dtype, std::string_view op, Body&& body) {
  switch (dtype) {
    case Dtype::Float32:
      return body(0.0F);
    case Dtype::Float64:
      return body(0.0);
    case Dtype::Int32:
      break;
  }
  throw DtypeError(concat_text("[", op, "] takes float32 or float64, got ", dtype));
}

/// The place of a tensor's bytes. A meta device has none: shapes, allocations and policies are followed there and no
/// kernel runs, so that the peak of a step is known without the step. MetaCpu counts what the CPU would count, MetaCuda
/// what a CUDA device would: the two differ in workspace and in what the allocator reserves.
enum class Device : std::uint8_t { Cpu, Cuda, MetaCpu, MetaCuda };

constexpr bool is_meta(Device device) { return device == Device::MetaCpu || device == Device::MetaCuda; }

/// The meta device that stands for `device`; a meta device stands for itself.
constexpr Device meta_of(Device device) {
  return device == Device::Cuda || device == Device::MetaCuda ? Device::MetaCuda : Device::MetaCpu;
}

/// The device whose kernels a step on `device` runs or, on a meta device, stands for: workspace is sized by it.
constexpr Device kernel_device(Device device) {
  return device == Device::Cuda || device == Device::MetaCuda ? Device::Cuda : Device::Cpu;
}

constexpr std::string_view to_string(Device device) {
  switch (device) {
    case Device::Cpu:
      return "cpu";
    case Device::Cuda:
      return "cuda";
    case Device::MetaCpu:
      return "meta-cpu";
    case Device::MetaCuda:
      return "meta-cuda";
  }
  return "?";
}

inline std::ostream& operator<<(std::ostream& out, Device device) { return out << to_string(device); }

}  // namespace palimpsest
