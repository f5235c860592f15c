#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <palimpsest/autograd/engine/arena.hpp>
#include <palimpsest/autograd/engine/state_log.hpp>

namespace palimpsest {

/// The things that the computations which a thread has under way share. It begins with the first op that is recorded
/// while none is, and is over with the last of them: a plain training step is a session of one tape.
struct Session {
  /// The thread's; a new one if no computation is under way.
  static std::shared_ptr<Session> current_or_new();
  /// Null if none is under way.
  static std::shared_ptr<Session> current();

  std::vector<Tape*> tapes;  ///< those under way, with or without recorded ops
  Arenas arenas;
  StateLog changes;
  std::size_t next_index = 0;      ///< of the op recorded next
  std::size_t solved_from = 0;     ///< behind the last op of those whose results earlier values are made from
  std::size_t next_place = 0;      ///< of the next op that has a policy (Policy::place)
  bool step_counted = false;       ///< for verification, since the last backward
  std::weak_ptr<Tape> taken_from;  ///< an op of it was taken back and is about to be replaced (take_unrun)
};

}  // namespace palimpsest
