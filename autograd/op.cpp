#include <palimpsest/autograd/op.hpp>

namespace palimpsest {
namespace {

double bytes_of(std::span<const View> views) {
  double bytes = 0;
  for (const View& view : views) bytes += view ? static_cast<double>(view.bytes()) : 0.0;
  return bytes;
}

double elements_of(std::span<const View> views) {
  double elements = 0;
  for (const View& view : views) elements += static_cast<double>(view.shape.count());
  return elements;
}

}  // namespace

void refuse_meta(Device device) {
  throw DeviceError(concat_text("a tensor on ", device, " has no elements to read or write; is_meta() tells"));
}

double Op::forward_bytes(std::span<const View> inputs, std::span<const View> outputs) {
  return bytes_of(inputs) + bytes_of(outputs);
}

double Op::backward_bytes(std::span<const View> inputs, std::span<const View> outputs,
                          const std::vector<bool>& wanted) {
  double bytes = bytes_of(inputs) + bytes_of(outputs);
  for (const View& output : outputs) bytes += static_cast<double>(output.bytes());
  for (std::size_t i = 0; i < inputs.size(); ++i) bytes += wanted[i] ? static_cast<double>(inputs[i].bytes()) : 0.0;
  return bytes;
}

void Op::check_light(const char* function) const {
  if (cost() != Cost::Heavy) return;
  throw StateError(concat_text(
      "[", name(), "] is heavy and does not say its work, by which times are predicted: ", "override ", function));
}

Work Op::forward_work(std::span<const View> inputs, std::span<const View> outputs) const {
  check_light("forward_work()");
  return {elements_of(outputs), forward_bytes(inputs, outputs)};
}

Work Op::backward_work(std::span<const View> inputs, std::span<const View> outputs,
                       const std::vector<bool>& wanted) const {
  check_light("backward_work()");
  Work work{0, backward_bytes(inputs, outputs, wanted)};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    work.operations += wanted[i] ? static_cast<double>(inputs[i].shape.count()) : 0.0;
  }
  return work;
}

void Op::solve(std::span<const View>, const View&, const View&) const {
  throw StateError(concat_text("[", name(), "] cannot be solved for an input"));
}

}  // namespace palimpsest
