#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

/// The shared storages of the computations under way on a thread. An arena holds the bytes of one value at a time:
/// leasing it evicts the tenant, which is then absent (never wrong) until its recipe brings it back. An arena whose
/// tenant must stay is not touched; the lease gets another one. An arena is as large as its tenant, so what it does not
/// need is free for others.
class Arenas {
 public:
  /// Gives `value` memory in an arena numbered `id`; calls `save` on a tenant that is about to be evicted, which is
  /// none that `may_go` is false for. Strong guarantee: on OutOfMemory and on what `save` throws, `value` stays absent.
  void lease(Value& value, int id, const std::function<bool(const Value&)>& may_go,
             const std::function<void(Value&)>& save);
  /// The tenant leaves and keeps its bytes.
  void release(Value& value);
  /// The tenant leaves; its bytes are released with it.
  void vacate(Value& value);
  /// `to` takes over `from`'s arena and bytes.
  void transfer(Value& from, Value& to);
  /// The tenants of a tape leave, keeping the bytes of those the user still holds.
  void dissolve(const Tape& tape);

  /// Arenas made so far, for tests: one per id, and one more for each lease that met only tenants that must stay.
  std::size_t count() const { return slots_.size(); }

 private:
  struct Slot {
    int id;
    Value* tenant;
  };
  std::vector<Slot> slots_;
};

}  // namespace palimpsest
