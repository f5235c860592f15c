#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace palimpsest {

class Tape;
class Nodes;

/// The changes that recorded ops have made outside the record (running statistics, random counters), in the order in
/// which they did it, until it is certain that it stays. Several computations may be under way and change the same
/// state: one that fails leaves it as if only the others had been there.
class StateLog {
 public:
  /// The op with this index, of that tape, has changed state. `redo` makes the same change on top of another state;
  /// null: undoing what was changed before leaves this change alone.
  void add(const Tape& owner, std::size_t index, std::function<void()> undo, std::function<void()> redo);

  /// A change that stays, by an op that was recorded behind the one with this index if any was.
  void add_final(std::size_t index, std::function<void()> undo, std::function<void()> redo);

  /// Undoes a tape's changes: newer ones of other tapes are undone first and made again afterwards. A change whose
  /// undoing throws is left as it is.
  void undo(const Tape& owner) noexcept;
  /// A tape's changes stay.
  void settle(const Tape& owner) noexcept;
  /// Likewise those of all ops but these.
  void settle_but(const Tape& owner, const Nodes& nodes);
  /// A tape's changes are another's from now on. The first was made by the op with that index.
  void hand_over(const Tape& from, const Tape& to, std::size_t first_index) noexcept;

 private:
  struct Change {
    const Tape* owner;  // null: it stays, and is here only because an older one may yet be undone
    std::size_t index;
    std::function<void()> undo;
    std::function<void()> redo;
  };
  void forget_settled() noexcept;

  std::vector<Change> changes_;
};

}  // namespace palimpsest
