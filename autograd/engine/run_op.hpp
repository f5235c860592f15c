#pragma once

#include <string>

#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

inline const Shape& shape_of(const View& view) { return view.shape; }
inline const Shape& shape_of(const ValuePtr& value) { return value->shape(); }

/// Runs part of an op: its forward, its backward, its solution. Where the device fails in it, the DeviceError that
/// leaves says which op that was and on which inputs (views or values); what kernels and copies say is about bytes.
template <class Inputs, class Run>
void run_op(const Op& op, const Inputs& inputs, const Run& run) {
  try {
    run();
  } catch (const DeviceError& error) {
    std::string shapes;
    for (const auto& input : inputs) shapes += concat_text(shapes.empty() ? "" : ", ", shape_of(input));
    throw DeviceError(concat_text("[", op.name(), "] on inputs ", shapes, ": ", error.what()));
  }
}

}  // namespace palimpsest
