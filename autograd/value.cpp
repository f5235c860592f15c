#include <palimpsest/autograd/value.hpp>

#include <algorithm>
#include <iterator>

#include <palimpsest/autograd/engine/value_state.hpp>

namespace palimpsest {

Value::Value(const Shape& shape, Dtype dtype, Device device)
    : shape_(shape), dtype_(dtype), device_(device), state_(std::make_unique<ValueState>()) {}
Value::~Value() = default;

bool Value::present() const { return state_->storage != nullptr; }
bool Value::leaf() const { return state_->tape == nullptr; }
bool Value::requires_grad() const { return state_->requires_grad; }
const Node* Value::producer() const { return state_->producer; }
const Recipe* Value::recipe() const { return state_->recipe.get(); }
int Value::readers() const { return state_->readers; }
bool Value::held_by_user() const { return state_->handles > 0; }
std::size_t Value::output() const { return state_->output; }

std::uint64_t Value::assignments() const { return state_->storage != nullptr ? state_->storage->assignments : 0; }
std::uint64_t Value::version() const { return state_->storage ? state_->storage->version : state_->saved_version; }

View Value::view() const { return {state_->storage ? state_->storage->data() : nullptr, shape_, dtype_, device_}; }

void Nodes::merge(Nodes& others) {
  const auto by_index = [](const auto& a, const auto& b) { return a->index < b->index; };
  // The others are recent, as a rule: only those that are as recent have to be moved.
  const auto first =
      others.empty() ? list_.end() : std::lower_bound(list_.begin(), list_.end(), others.list_.front(), by_index);
  const auto kept = first - list_.begin();
  const auto middle = static_cast<std::ptrdiff_t>(list_.size());
  std::move(others.list_.begin(), others.list_.end(), std::back_inserter(list_));
  others.list_.clear();
  std::inplace_merge(list_.begin() + kept, list_.begin() + middle, list_.end(), by_index);
}

Nodes Nodes::take_used() {
  const auto used = std::stable_partition(list_.begin(), list_.end(), [](const auto& node) { return node->stays; });
  Nodes taken;
  std::move(used, list_.end(), std::back_inserter(taken.list_));
  list_.erase(used, list_.end());
  return taken;
}

}  // namespace palimpsest
