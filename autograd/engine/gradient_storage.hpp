#pragma once

#include <memory>
#include <utility>

#include <palimpsest/autograd/engine/value_state.hpp>
#include <palimpsest/autograd/observer.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/elementwise.hpp>

namespace palimpsest {

/// Memory of any content for the gradient of a value.
inline std::shared_ptr<Storage> make_gradient(const Value& value) {
  auto gradient = std::make_shared<Storage>(value.device(), value.bytes(), Tag::Gradient);
  if (Observer* const there = observer()) there->gradient_placed(value, gradient->data());
  return gradient;
}

/// to += from, for gradients of this value.
inline void add_into(const Buffer& to, const Buffer& from, const Value& value) {
  accumulate(to.data(), from.data(), value.shape().count(), value.dtype(), value.device());
}

/// A gradient that others share is copied before it is added to.
inline void make_exclusive(std::shared_ptr<Storage>& gradient, const Value& value) {
  if (gradient.use_count() == 1) return;
  auto copy = make_gradient(value);
  copy_bytes(copy->data(), value.device(), gradient->data(), value.device(), value.bytes());
  gradient = std::move(copy);
}

}  // namespace palimpsest
