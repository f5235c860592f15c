// The requests of an op's backward: what it reads, where its gradients go, and whether they went there.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include <palimpsest/autograd/engine/gradient_storage.hpp>
#include <palimpsest/autograd/engine/pins.hpp>
#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>
#include <palimpsest/core/error.hpp>

namespace palimpsest {
namespace {

/// Throws StateError unless the op has such an input or output.
void check_place(const Node& node, const char* what, std::size_t i, std::size_t count) {
  if (i < count) return;
  throw StateError(concat_text("[", node.op->name(), "] backward asks for ", what, ' ', i, ", it has ", count));
}

/// A number that is none and that no arithmetic makes: quiet, with bits of its own behind.
template <class Bits>
constexpr Bits mark_of = sizeof(Bits) == 4 ? Bits{0x7FE5C3D1} : static_cast<Bits>(0x7FFC5A5A3C3CD1D1);

/// Calls visit(bits of the first and of the last element, their mark).
template <class Visit>
void at_both_ends(const Buffer& gradient, const Value& value, const Visit& visit) {
  const auto at = [&]<class Bits>(Bits mark) {
    auto* const bytes = static_cast<std::byte*>(gradient.data());
    for (std::byte* const element : {bytes, bytes + value.bytes() - sizeof(Bits)}) visit(element, mark);
  };
  value.dtype() == Dtype::Float64 ? at(mark_of<std::uint64_t>) : at(mark_of<std::uint32_t>);
}

/// On another device than the CPU looking at two elements would wait for all work.
bool takes_marks(const Value& value) { return value.device() == Device::Cpu && value.shape().count() > 0; }

void put_marks(const Buffer& gradient, const Value& value) {
  at_both_ends(gradient, value, [](std::byte* element, auto mark) { std::memcpy(element, &mark, sizeof mark); });
}

bool has_mark(const Buffer& gradient, const Value& value) {
  bool found = false;
  at_both_ends(gradient, value, [&](const std::byte* element, auto mark) {
    found = found || std::memcmp(element, &mark, sizeof mark) == 0;
  });
  return found;
}

}  // namespace

View BackwardContext::grad_output(std::size_t o) const {
  check_place(node_, "output", o, node_.outputs.size());
  const Value& value = *node_.outputs[o];
  return {value.state().gradient ? value.state().gradient->data() : nullptr, value.shape(), value.dtype(),
          value.device()};
}

BackwardContext::BackwardContext(Tape& tape, Node& node, PinSet& pins)
    : tape_(tape),
      node_(node),
      pins_(pins),
      written_(node.inputs.size()),
      marked_(node.inputs.size()),
      done_(node.inputs.size()) {}

View BackwardContext::input(std::size_t i) const {
  check_place(node_, "input", i, node_.inputs.size());
  if (!node_.needs.input(i)) {
    throw StateError(concat_text("[", node_.op->name(), "] backward reads input ", i, " ", node_.inputs[i]->shape(),
                                 ", which its needs() does not name"));
  }
  if (done_[i]) throw StateError(concat_text("[", node_.op->name(), "] backward was done with input ", i));
  return node_.inputs[i]->view();
}

View BackwardContext::output(std::size_t o) const {
  check_place(node_, "output", o, node_.outputs.size());
  if (!node_.needs.output(o) && !node_.needs.optional_output(o)) {
    throw StateError(concat_text("[", node_.op->name(), "] backward reads output ", o, " ", node_.outputs[o]->shape(),
                                 ", which its needs() does not name"));
  }
  return node_.outputs[o]->view();
}

void BackwardContext::check_all_written() const {
  for (std::size_t i = 0; i < written_.size(); ++i) {
    if (!wants(i)) continue;
    const Value& value = *node_.inputs[i];
    const bool written = written_[i] && !(marked_[i] && has_mark(*tape_.gradient_slot(*node_.inputs[i]), value));
    if (written) continue;
    throw StateError(concat_text("[", node_.op->name(), "] backward has not written the gradient of input ", i, " ",
                                 value.shape(), ", which wants one"));
  }
}

void BackwardContext::check_wanted(std::size_t i) const {
  if (wants(i)) return;
  throw StateError(concat_text("[", node_.op->name(), "] backward writes the gradient of input ", i, " ",
                               node_.inputs[i]->shape(), ", which wants none: wants() says so"));
}

Device BackwardContext::device() const { return node_.outputs[0]->device(); }
bool BackwardContext::wants(std::size_t i) const {
  check_place(node_, "input", i, node_.inputs.size());
  return node_.inputs[i]->requires_grad();
}
std::size_t BackwardContext::input_count() const { return node_.inputs.size(); }
const Shape& BackwardContext::input_shape(std::size_t i) const {
  check_place(node_, "input", i, node_.inputs.size());
  return node_.inputs[i]->shape();
}

void BackwardContext::done_with_input(std::size_t i) {
  input(i);
  Value& value = *node_.inputs[i];
  done_[i] = true;
  node_.held.erase(std::find(node_.held.begin(), node_.held.end(), &value));
  --value.state().readers;
  pins_.unpin(value);
}

void BackwardContext::on_complete(std::size_t i, std::function<void(const View&, const View&)> correct) {
  check_wanted(i);
  ValueState& value = node_.inputs[i]->state();
  value.corrections.push_back(std::move(correct));
  ++value.readers;
}

GradientTarget BackwardContext::grad_input(std::size_t i) {
  check_wanted(i);
  written_[i] = true;
  const Value& value = *node_.inputs[i];
  std::shared_ptr<Storage>& gradient = tape_.gradient_slot(*node_.inputs[i]);
  const bool accumulate = gradient != nullptr;
  if (accumulate) {
    make_exclusive(gradient, value);
  } else {
    gradient = make_gradient(value);
    marked_[i] = takes_marks(value);
    if (marked_[i]) put_marks(*gradient, value);
  }
  return {{gradient->data(), value.shape(), value.dtype(), value.device()}, accumulate};
}

GradientTarget BackwardContext::grad_input_over(std::size_t i, std::size_t o) {
  check_wanted(i);
  check_place(node_, "output", o, node_.outputs.size());
  const Value& value = *node_.inputs[i];
  std::shared_ptr<Storage>& gradient = tape_.gradient_slot(*node_.inputs[i]);
  std::shared_ptr<Storage>& source = node_.outputs[o]->state().gradient;
  const bool can_be_had = source != nullptr && source.use_count() == 1 && source->bytes() == value.bytes();
  if (gradient != nullptr || !can_be_had) return grad_input(i);
  gradient = std::move(source);
  written_[i] = true;
  return {{gradient->data(), value.shape(), value.dtype(), value.device()}, false};
}

void BackwardContext::pass_through(std::size_t i, std::size_t o) {
  check_wanted(i);
  check_place(node_, "output", o, node_.outputs.size());
  const Value& value = *node_.inputs[i];
  const Value& output = *node_.outputs[o];
  if (output.shape().count() != value.shape().count() || output.dtype() != value.dtype()) {
    throw StateError(concat_text("[", node_.op->name(), "] backward passes the gradient of output ", o, ' ',
                                 output.shape(), " to input ", i, ' ', value.shape()));
  }
  const std::shared_ptr<Storage>& source = output.state().gradient;
  if (source == nullptr) {
    throw StateError(concat_text("[", node_.op->name(), "] backward passes the gradient of output ", o,
                                 " on, into which nothing has flowed: grad_output() is null there"));
  }
  written_[i] = true;
  std::shared_ptr<Storage>& gradient = tape_.gradient_slot(*node_.inputs[i]);
  if (gradient == nullptr) {
    gradient = source;
    return;
  }
  make_exclusive(gradient, value);
  add_into(*gradient, *source, value);
}

}  // namespace palimpsest
