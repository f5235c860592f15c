#pragma once

// Checks that ops share. Messages start with the op's name in brackets and say what was expected.

#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <palimpsest/autograd/op.hpp>
#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::ops {

/// Throws DtypeError unless every input has the floating element type of the first.
inline void check_same_float(std::string_view op, std::span<const TensorSpec> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Dtype dtype = inputs[i].dtype;
    if (dtype == Dtype::Int32)
      throw DtypeError(concat_text("[", op, "] input ", i, " is int32, expected float32 or float64"));
    if (dtype != inputs[0].dtype) {
      throw DtypeError(
          concat_text("[", op, "] input ", i, " is ", dtype, ", expected ", inputs[0].dtype, " like input 0"));
    }
  }
}

/// Throws ShapeError unless the input has this rank; `layout` is how the message writes what was expected.
inline void check_rank(std::string_view op, std::size_t input, const Shape& shape, int rank, std::string_view layout) {
  if (shape.rank() == rank) return;
  throw ShapeError(concat_text("[", op, "] input ", input, " is ", shape, ", expected ", layout));
}

/// Throws ShapeError unless the input has exactly this shape.
inline void check_shape(std::string_view op, std::size_t input, const Shape& shape, const Shape& expected) {
  if (shape == expected) return;
  throw ShapeError(concat_text("[", op, "] input ", input, " is ", shape, ", expected ", expected));
}

/// The inputs of an op as apply() takes them; an initializer list would copy what the caller has moved in.
template <class... Tensors>
std::vector<Tensor> inputs_of(Tensors&&... tensors) {
  std::vector<Tensor> inputs;
  inputs.reserve(sizeof...(tensors));
  (inputs.push_back(std::forward<Tensors>(tensors)), ...);
  return inputs;
}

/// Runs the kernels of an op for an element type: `body` is called with a zero of the C++ element type, and picks the
/// device's kernel with PALIMPSEST_RUN. Nothing runs on a meta device. Throws DtypeError.
template <class Body>
void run_kernels(std::string_view op, Device device, Dtype dtype, Body&& body) {
  if (!is_meta(device)) with_float(dtype, op, body);
}

}  // namespace palimpsest::ops
