#include <palimpsest/autograd/engine/arena.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>

namespace palimpsest {

void Arenas::lease(Value& value, int id, const std::function<bool(const Value&)>& may_go,
                   const std::function<void(Value&)>& save) {
  Slot* chosen = nullptr;
  for (Slot& slot : slots_) {
    if (slot.id != id || (slot.tenant != nullptr && !may_go(*slot.tenant))) continue;
    if (chosen == nullptr || slot.tenant == nullptr) chosen = &slot;
    if (slot.tenant == nullptr) break;
  }
  if (chosen == nullptr) chosen = &slots_.emplace_back(Slot{id, nullptr});
  if (chosen->tenant != nullptr) {
    save(*chosen->tenant);
    vacate(*chosen->tenant);
  }
  value.state().storage = std::make_shared<Storage>(value.device(), value.bytes(), Tag::Arena);
  value.state().arena = id;
  chosen->tenant = &value;
}

void Arenas::release(Value& value) {
  for (Slot& slot : slots_) {
    if (slot.tenant == &value) slot.tenant = nullptr;
  }
  value.state().arena = -1;
}

void Arenas::vacate(Value& value) {
  release(value);
  value.state().storage.reset();
}

void Arenas::transfer(Value& from, Value& to) {
  for (Slot& slot : slots_) {
    if (slot.tenant == &from) slot.tenant = &to;
  }
  to.state().storage = std::move(from.state().storage);
  to.state().arena = from.state().arena;
  from.state().storage.reset();
  from.state().arena = -1;
}

void Arenas::dissolve(const Tape& tape) {
  for (Slot& slot : slots_) {
    if (slot.tenant == nullptr || slot.tenant->state().tape != &tape) continue;
    slot.tenant->state().arena = -1;
    if (slot.tenant->state().handles == 0) slot.tenant->state().storage.reset();
    slot.tenant = nullptr;
  }
}

}  // namespace palimpsest
