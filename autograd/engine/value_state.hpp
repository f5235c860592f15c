#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

struct Unread;

/// The engine's knowledge of a value beyond its shape: who wants its bytes, where they are, how they come back.
struct ValueState {
  bool requires_grad = false;
  bool saved = false;               ///< Recipe::save was called
  std::uint64_t saved_version = 0;  ///< of the bytes that a recipe without a node has moved elsewhere
  int handles = 0;                  ///< the user's tensors
  int readers = 0;                  ///< recorded nodes whose backward or replay will read it
  int pins = 0;
  bool light = false;  ///< when its recipe was chosen, no heavy op was between it and values that stay
  int arena = -1;      ///< the arena that the bytes are leased from
  int depth = 0;       ///< blocks with policies around the one whose policy has chosen the recipe
  std::shared_ptr<Storage> storage;
  std::shared_ptr<Storage> gradient;
  std::shared_ptr<Unread> unread;  ///< the op that makes it when it is read first (apply_when_read); of leaves alone
  /// Additions to the gradient that wait until all readers of the value have added theirs; each reads the bytes, too.
  std::vector<std::function<void(const View& bytes, const View& gradient)>> corrections;
  RecipePtr recipe;
  std::vector<Value*> sources;  ///< what the recipe reads: each has a reader more while the value is wanted
  std::shared_ptr<ValueCache> cache;
  std::uint64_t cache_version = 0;  ///< of the bytes that the cache is about
  Node* producer = nullptr;
  std::size_t output = 0;
  Tape* tape = nullptr;

  /// Nobody will read it, as far as is known: a recipe that is chosen later may.
  bool unwanted() const { return handles == 0 && readers == 0 && pins == 0; }
};

}  // namespace palimpsest
