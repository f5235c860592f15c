#pragma once

#include <cstdint>
#include <memory>

#include <palimpsest/autograd/deferred.hpp>
#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

/// What the engine knows about a value beyond its shape: who wants its bytes, where they are, how they come back.
struct ValueState {
  bool requires_grad = false;
  bool saved = false;               ///< Recipe::save was called
  std::uint64_t saved_version = 0;  ///< of the bytes that a recipe without a node has moved elsewhere
  int handles = 0;                  ///< the user's tensors
  int readers = 0;                  ///< recorded nodes whose backward or replay will read it
  int pins = 0;
  int arena = -1;  ///< the arena that the bytes are leased from
  std::shared_ptr<Storage> storage;
  std::shared_ptr<Storage> gradient;
  RecipePtr recipe;
  std::shared_ptr<Note> note;
  std::uint64_t note_version = 0;      ///< of the bytes that the note is about
  std::unique_ptr<Deferred> deferred;  ///< the op that is to make it, once somebody reads it
  Node* producer = nullptr;
  std::size_t output = 0;
  bool optional = false;
  Tape* tape = nullptr;
};

}  // namespace palimpsest
