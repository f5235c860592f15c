// Fetching ahead: while a node runs backwards, what the nodes before it will read may be on its way.

#include <algorithm>
#include <unordered_set>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>

namespace palimpsest {
namespace {

/// Values on their way at once. They take memory before they are read, so there are few; which they are follows from
/// the recorded computation, and so does the peak.
constexpr std::size_t most_on_their_way = 2;

/// The values that the node's backward reads, in the order in which it is made present.
std::vector<Value*> read_by(const Node& node) {
  std::vector<Value*> values;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.needs.input(i)) values.push_back(node.inputs[i].get());
  }
  for (std::size_t o = 0; o < node.outputs.size(); ++o) {
    if (node.needs.output(o)) values.push_back(node.outputs[o].get());
  }
  return values;
}

}  // namespace

void Tape::mark_reached(const Value& loss) {
  for (Node& node : nodes_) node.reached = node.stays = false;
  loss.state().producer->reached = true;
  for (std::size_t i = nodes_.size(); i-- > 0;) {
    const Node& node = nodes_[i];
    for (std::size_t k = 0; node.reached && k < node.inputs.size(); ++k) {
      const Value& input = *node.inputs[k];
      if (input.leaf()) continue;
      if (input.producer() == nullptr) {
        throw StateError(concat_text("backward: [", node.op->name(), "] input ", k, " ", input.shape(),
                                     " was made by a computation that another backward has used up; to differentiate "
                                     "several losses of one computation, add() them first"));
      }
      input.state().producer->reached = true;
    }
  }
  mark_staying();
}

void Tape::mark_staying() {
  const auto producer = [](const ValuePtr& value) { return value->state().producer; };
  // Nodes behind those that are used up cannot be differentiated any more.
  for (Node& node : nodes_) {
    node.stays = !node.reached && std::all_of(node.inputs.begin(), node.inputs.end(), [&](const ValuePtr& input) {
      return input->leaf() || (producer(input) != nullptr && producer(input)->stays);
    });
  }
  // The rest stays as far as the user can reach it.
  std::unordered_set<const Node*> wanted;
  for (std::size_t i = nodes_.size(); i-- > 0;) {
    Node& node = nodes_[i];
    if (!node.stays) continue;
    const bool held = std::any_of(node.outputs.begin(), node.outputs.end(),
                                  [](const ValuePtr& output) { return output->state().handles > 0; });
    node.stays = held || wanted.contains(&node);
    if (!node.stays) continue;
    for (const ValuePtr& input : node.inputs) wanted.insert(producer(input));
  }
}

void Tape::fetch_ahead(std::size_t position) {
  std::erase_if(on_their_way_, [](const Value* value) { return value->present() || value->state().recipe == nullptr; });
  const auto is_on_its_way = [&](const Value* value) {
    return std::find(on_their_way_.begin(), on_their_way_.end(), value) != on_their_way_.end();
  };
  for (looked_ahead_ = std::min(looked_ahead_, position); looked_ahead_ > 0; --looked_ahead_) {
    // Without a gradient a node reads nothing, and what was fetched for it would take a place from what is read.
    if (!nodes_[looked_ahead_ - 1].reached) continue;
    for (Value* value : read_by(nodes_[looked_ahead_ - 1])) {
      // A value that a node must be run for is made again when it is needed.
      const bool saved = !value->present() && value->state().saved && value->state().recipe != nullptr;
      if (!saved || value->state().recipe->via(*value) != nullptr || is_on_its_way(value)) continue;
      if (on_their_way_.size() == most_on_their_way) return;
      if (value->state().recipe->fetch_ahead(*value)) on_their_way_.push_back(value);
    }
  }
}

}  // namespace palimpsest
