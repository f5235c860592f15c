#include <palimpsest/autograd/tensor.hpp>

#include <cstring>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/unread.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/layout.hpp>

namespace palimpsest {
namespace {

template <class T>
void check_dtype(const char* what, Dtype dtype) {
  if (dtype != dtype_of<T>) throw DtypeError(concat_text(what, ": the tensor is ", dtype, ", asked for ", dtype_of<T>));
}

}  // namespace

Handle::Handle(ValuePtr held, std::shared_ptr<Tape> recorded_on)
    : value(std::move(held)), tape(std::move(recorded_on)) {
  if (++value->state().handles == 1 && tape != nullptr) tape->hold(*value);
}

Handle::~Handle() {
  --value->state().handles;
  if (tape != nullptr) tape->let_go(*value);
  ValueState& state = value->state();
  if (value->leaf() && state.handles == 0 && state.readers == 0 && state.pins == 0) state.storage.reset();
}

Tensor Tensor::empty(const Shape& shape, Dtype dtype, Device device, Tag tag) {
  auto value = std::make_shared<Value>(shape, dtype, device);
  value->state().storage = std::make_shared<Storage>(device, value->bytes(), tag);
  return Tensor(std::make_shared<Handle>(std::move(value), nullptr));
}

Tensor Tensor::zeros(const Shape& shape, Dtype dtype, Device device, Tag tag) {
  Tensor tensor = empty(shape, dtype, device, tag);
  zero_bytes(tensor.value().view().data, device, tensor.value().bytes());
  return tensor;
}

template <class T, Dtype>
Tensor Tensor::from_vector(const Shape& shape, const std::vector<T>& values, Device device, Tag tag) {
  if (static_cast<std::int64_t>(values.size()) != shape.count()) {
    throw ShapeError(concat_text("from_vector: ", values.size(), " values for a ", shape, " tensor"));
  }
  std::vector<T> reordered(values.size());
  for_each_element(shape, [&](std::int64_t logical, std::int64_t memory) {
    reordered[static_cast<std::size_t>(memory)] = values[static_cast<std::size_t>(logical)];
  });
  return from_layout(shape, reordered.data(), device, tag);
}

template <class T, Dtype>
Tensor Tensor::from_layout(const Shape& shape, const T* values, Device device, Tag tag) {
  Tensor tensor = empty(shape, dtype_of<T>, device, tag);
  copy_bytes(tensor.value().view().data, device, values, Device::Cpu, tensor.value().bytes());
  return tensor;
}

Value& Tensor::value() const {
  if (handle_ == nullptr) throw ValueError("an empty tensor has no value");
  return *handle_->value;
}

ConstView Tensor::view() const {
  Value& held = value();
  if (held.state().unread != nullptr) held.state().unread->run(held);
  if (!held.present()) {
    if (!held.leaf()) handle_->tape->restore(held);
    if (!held.present()) throw StateError("the bytes of this tensor are gone");
  }
  return held.view();
}

Tensor& Tensor::requires_grad(bool on) {
  if (!value().leaf()) throw StateError("requires_grad: only a leaf can be asked for gradients");
  if (dtype() == Dtype::Int32) throw DtypeError("requires_grad: int32 tensors have no gradient");
  value().state().requires_grad = on;
  return *this;
}

template <class T, Dtype>
std::vector<T> Tensor::to_vector() const {
  check_dtype<T>("to_vector", dtype());
  if (is_meta(device())) throw DeviceError(concat_text("to_vector: a tensor on ", device(), " has no elements"));
  std::vector<T> memory(static_cast<std::size_t>(shape().count()));
  copy_bytes(memory.data(), Device::Cpu, view().data, device(), value().bytes());
  std::vector<T> logical(memory.size());
  for_each_element(shape(), [&](std::int64_t to, std::int64_t from) {
    logical[static_cast<std::size_t>(to)] = memory[static_cast<std::size_t>(from)];
  });
  return logical;
}

double Tensor::item() const {
  if (shape().count() != 1)
    throw ShapeError(concat_text("item: the tensor has shape ", shape(), ", expected one element"));
  if (is_meta(device())) throw DeviceError(concat_text("item: a tensor on ", device(), " has no elements"));
  switch (dtype()) {
    case Dtype::Float32:
      return to_vector<float>()[0];
    case Dtype::Float64:
      return to_vector<double>()[0];
    case Dtype::Int32:
      return to_vector<std::int32_t>()[0];
  }
  throw DtypeError("item: unknown element type");
}

void Tensor::assign(const Tensor& source) {
  if (!value().leaf()) throw StateError("assign: only a leaf can be overwritten");
  if (source.shape() != shape()) throw ShapeError(concat_text("assign: got ", source.shape(), ", expected ", shape()));
  if (source.dtype() != dtype()) throw DtypeError(concat_text("assign: got ", source.dtype(), ", expected ", dtype()));
  copy_bytes(mutable_view().data, device(), source.view().data, source.device(), value().bytes());
}

View Tensor::mutable_view() const {
  const View bytes = state_view();
  ++value().state().storage->assignments;
  return bytes;
}

View Tensor::state_view() const {
  if (!value().leaf()) throw StateError("mutable_view: only the bytes of a leaf can be changed");
  run_unread();  // it may be about to read these bytes
  view();
  ++value().state().storage->version;
  return value().view();
}

Tensor Tensor::detach() const { return detach(shape()); }

Tensor Tensor::detach(const Shape& shape) const {
  if (shape.count() != this->shape().count()) {
    throw ShapeError(concat_text("detach: ", this->shape(), " has no view of shape ", shape));
  }
  auto same = std::make_shared<Value>(shape, dtype(), device());
  view();
  same->state().storage = value().state().storage;
  return Tensor(std::make_shared<Handle>(std::move(same), nullptr));
}

void Tensor::backward(const std::function<void(std::span<const LeafGradient>)>& before_commit) const {
  if (value().leaf()) throw StateError("backward: nothing was recorded for this tensor");
  handle_->tape->backward(*this, before_commit);
}

Tensor Tensor::grad() const {
  const std::shared_ptr<Storage>& gradient = value().state().gradient;
  return gradient != nullptr ? gradient_tensor(value(), gradient) : Tensor();
}

void Tensor::zero_grad() const { value().state().gradient.reset(); }

template Tensor Tensor::from_vector(const Shape&, const std::vector<float>&, Device, Tag);
template Tensor Tensor::from_vector(const Shape&, const std::vector<double>&, Device, Tag);
template Tensor Tensor::from_vector(const Shape&, const std::vector<std::int32_t>&, Device, Tag);
template Tensor Tensor::from_layout(const Shape&, const float*, Device, Tag);
template Tensor Tensor::from_layout(const Shape&, const double*, Device, Tag);
template Tensor Tensor::from_layout(const Shape&, const std::int32_t*, Device, Tag);
template std::vector<float> Tensor::to_vector() const;
template std::vector<double> Tensor::to_vector() const;
template std::vector<std::int32_t> Tensor::to_vector() const;

}  // namespace palimpsest
