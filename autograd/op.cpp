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

Work Op::forward_work(std::span<const View> inputs, std::span<const View> outputs) const {
  return {elements_of(outputs), bytes_of(inputs) + bytes_of(outputs)};
}

Work Op::backward_work(std::span<const View> inputs, std::span<const View> outputs,
                       const std::vector<bool>& wanted) const {
  Work work{0, bytes_of(inputs) + bytes_of(outputs)};
  for (const View& output : outputs) work.bytes += static_cast<double>(output.bytes());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!wanted[i]) continue;
    work.bytes += static_cast<double>(inputs[i].bytes());
    work.operations += static_cast<double>(inputs[i].shape.count());
  }
  return work;
}

void Op::solve(std::span<const View>, const View&, const View&) const {
  throw StateError(concat_text("[", name(), "] cannot be solved for an input"));
}

}  // namespace palimpsest
