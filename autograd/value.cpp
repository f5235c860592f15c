#include <palimpsest/autograd/value.hpp>

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

std::uint64_t Value::version() const { return state_->storage ? state_->storage->version : state_->saved_version; }

View Value::view() const { return {state_->storage ? state_->storage->data() : nullptr, shape_, dtype_, device_}; }

}  // namespace palimpsest
