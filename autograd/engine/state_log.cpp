#include <palimpsest/autograd/engine/state_log.hpp>

#include <algorithm>
#include <unordered_set>

#include <palimpsest/autograd/value.hpp>

namespace palimpsest {
namespace {

void run(const std::function<void()>& change) noexcept {
  try {
    change();
  } catch (...) {
    // A device that has failed cannot be written to; who undoes is about to say why. The other changes still can be.
  }
}

}  // namespace

void StateLog::add(const Tape& owner, std::size_t index, std::function<void()> undo, std::function<void()> redo) {
  changes_.push_back({&owner, index, std::move(undo), std::move(redo)});
}

void StateLog::add_final(std::size_t index, std::function<void()> undo, std::function<void()> redo) {
  if (!changes_.empty()) changes_.push_back({nullptr, index, std::move(undo), std::move(redo)});
}

void StateLog::undo(const Tape& owner) noexcept {
  const auto is_owners = [&](const Change& change) { return change.owner == &owner; };
  const auto first = std::find_if(changes_.begin(), changes_.end(), is_owners);
  for (auto change = changes_.end(); change != first;) {
    --change;
    if (is_owners(*change) || change->redo != nullptr) run(change->undo);
  }
  for (auto change = first; change != changes_.end(); ++change) {
    if (!is_owners(*change) && change->redo != nullptr) run(change->redo);
  }
  changes_.erase(std::remove_if(first, changes_.end(), is_owners), changes_.end());
  forget_settled();
}

void StateLog::settle(const Tape& owner) noexcept {
  for (Change& change : changes_) {
    if (change.owner == &owner) change.owner = nullptr;
  }
  forget_settled();
}

void StateLog::settle_but(const Tape& owner, const Nodes& nodes) {
  std::unordered_set<std::size_t> indices;
  for (const Node& node : nodes) indices.insert(node.index);
  for (Change& change : changes_) {
    if (change.owner == &owner && !indices.contains(change.index)) change.owner = nullptr;
  }
  forget_settled();
}

void StateLog::hand_over(const Tape& from, const Tape& to, std::size_t first_index) noexcept {
  for (auto change = changes_.rbegin(); change != changes_.rend() && change->index >= first_index; ++change) {
    if (change->owner == &from) change->owner = &to;
  }
}

void StateLog::forget_settled() noexcept {
  const auto pending =
      std::find_if(changes_.begin(), changes_.end(), [](const Change& change) { return change.owner != nullptr; });
  changes_.erase(changes_.begin(), pending);
}

}  // namespace palimpsest
