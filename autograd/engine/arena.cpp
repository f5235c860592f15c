#include <palimpsest/autograd/engine/arena.hpp>

namespace palimpsest {

void Arenas::lease(Value& value, int id, const std::function<void(Value&)>& save) {
  Slot* chosen = nullptr;
  for (Slot& slot : slots_) {
    if (slot.id != id || (slot.tenant != nullptr && slot.tenant->pins_ > 0)) continue;
    if (chosen == nullptr || slot.tenant == nullptr) chosen = &slot;
    if (slot.tenant == nullptr) break;
  }
  if (chosen == nullptr) chosen = &slots_.emplace_back(Slot{id, nullptr});
  if (chosen->tenant != nullptr) {
    save(*chosen->tenant);
    vacate(*chosen->tenant);
  }
  value.storage_ = std::make_shared<Storage>(value.device(), value.bytes(), Tag::Arena);
  value.arena_ = id;
  chosen->tenant = &value;
}

void Arenas::release(Value& value) {
  for (Slot& slot : slots_) {
    if (slot.tenant == &value) slot.tenant = nullptr;
  }
  value.arena_ = -1;
}

void Arenas::vacate(Value& value) {
  release(value);
  value.storage_.reset();
}

void Arenas::transfer(Value& from, Value& to) {
  for (Slot& slot : slots_) {
    if (slot.tenant == &from) slot.tenant = &to;
  }
  to.storage_ = std::move(from.storage_);
  to.arena_ = from.arena_;
  from.storage_.reset();
  from.arena_ = -1;
}

void Arenas::dissolve() {
  for (Slot& slot : slots_) {
    if (slot.tenant == nullptr) continue;
    slot.tenant->arena_ = -1;
    if (slot.tenant->handles_ == 0) slot.tenant->storage_.reset();
    slot.tenant = nullptr;
  }
}

}  // namespace palimpsest
