// Computations side by side: how they begin, meet and share what a thread has.

#include <algorithm>
#include <exception>
#include <utility>

#include <palimpsest/autograd/engine/tape.hpp>
#include <palimpsest/autograd/engine/value_state.hpp>
#include <palimpsest/autograd/engine/verifier.hpp>
#include <palimpsest/autograd/observer.hpp>

namespace palimpsest {
namespace {

thread_local std::weak_ptr<Session> current_session;

/// An old computation's changes of state can be undone until so many later ones have been used up: the means take
/// memory.
constexpr int most_overtaken = 32;

/// The tape to which the history of a leaf belongs; null if it has none that is still to be taken over.
Tape* untaken_history(const Tensor& input) {
  if (!input.value().leaf() || input.handle()->tape == nullptr) return nullptr;
  Tape* const tape = input.handle()->tape->joined().get();
  return tape->state() == Tape::State::Recording ? tape : nullptr;
}

}  // namespace

std::shared_ptr<Session> Session::current() {
  std::shared_ptr<Session> session = current_session.lock();
  return session != nullptr && !session->tapes.empty() ? session : nullptr;
}

std::shared_ptr<Session> Session::current_or_new() {
  if (std::shared_ptr<Session> session = current()) return session;
  auto session = std::make_shared<Session>();
  current_session = session;
  if (Observer* const there = observer()) there->session_begins();
  return session;
}

Tape::Tape(std::shared_ptr<Session> session) : session_(std::move(session)), exceptions_(std::uncaught_exceptions()) {
  session_->tapes.push_back(this);
}

Tape::~Tape() {
  if (state_ == State::Recording) abandon();
}

void Tape::abandon() noexcept {
  // A step that an exception has torn down has failed; otherwise the layers were called, and that is all.
  if (interrupted_ || std::uncaught_exceptions() > exceptions_) return fail();
  // A part of a model's call whose result nobody wants fails with the rest of that call. Outside of models nothing says
  // what belongs together: it fails with what was recorded last.
  Tape* last = nullptr;
  for (Tape* const other : session_->tapes) {
    if (other != this && belongs_with(*other) && (last == nullptr || other->end() > last->end())) last = other;
  }
  if (last != nullptr) last->take_changes(*this);
  finish(State::Consumed);
}

bool Tape::belongs_with(const Tape& other) const {
  const auto shared = [&](std::uint64_t call) {
    return std::find(other.calls_.begin(), other.calls_.end(), call) != other.calls_.end();
  };
  return calls_.empty() || std::any_of(calls_.begin(), calls_.end(), shared);
}

void Tape::on_failure(std::size_t index, std::function<void()> undo, std::function<void()> redo) {
  first_change_ = std::min(first_change_, index);
  session_->changes.add(*this, index, std::move(undo), std::move(redo));
}

void Tape::on_unrecorded_failure(std::function<void()> undo, std::function<void()> redo) {
  note_call();
  on_failure(session_->next_index++, std::move(undo), std::move(redo));
}

Tensor with_history(Tensor x, const std::shared_ptr<Tape>& history) {
  if (history == nullptr || !x) return x;
  return Tensor(std::make_shared<Handle>(x.handle()->value, history));
}

std::shared_ptr<Tape> Tape::history_of(std::span<const Tensor> inputs) {
  std::shared_ptr<Tape> history;
  if (!grad_enabled()) return history;
  for (const Tensor& input : inputs) {
    Tape* const other = untaken_history(input);
    if (other == nullptr || other == history.get()) continue;
    if (history == nullptr) {
      history = other->shared_from_this();
    } else if (history->session_ == other->session_) {
      history->absorb(*other);
    }
  }
  return history;
}

void Tape::take_histories(std::span<const Tensor> inputs) noexcept {
  for (const Tensor& input : inputs) {
    Tape* const history = untaken_history(input);
    if (history == nullptr || history->session_ != session_) continue;  // another thread sees to its own
    take_changes(*history);
    history->finish(State::Consumed);
  }
}

void Tape::take_changes(Tape& other) noexcept {
  session_->changes.hand_over(other, *this, other.first_change_);
  first_change_ = std::min(first_change_, other.first_change_);
}

void Tape::overtake() noexcept {
  if (++overtaken_ != most_overtaken) return;
  if (nodes_.empty()) return finish(State::Consumed);
  session_->changes.settle(*this);
}

Tape& Tape::whole() {
  Tape* tape = this;
  while (tape->joined_ != nullptr) tape = tape->joined_.get();
  return *tape;
}

std::shared_ptr<Tape> Tape::joined() { return whole().shared_from_this(); }

std::shared_ptr<Tape> Tape::for_op(const Op& op, std::span<const Tensor> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].value().leaf() || inputs[i].value().producer() != nullptr) continue;
    throw StateError(concat_text("[", op.name(), "] input ", i, " ", inputs[i].shape(),
                                 " was made by a computation that a backward has used up or that has failed: no "
                                 "gradient can flow into it any more; compute it again, or call backward() once, on "
                                 "the sum of the losses"));
  }
  Tape* tape = nullptr;
  const auto join = [&](Tape& other) {
    if (tape == &other) return;
    if (other.state_ != State::Recording) {
      throw StateError(concat_text("[", op.name(), "] reads a computation through which backward is running"));
    }
    if (tape != nullptr && tape->session_ != other.session_) {
      throw StateError(concat_text("[", op.name(),
                                   "] reads what two threads have recorded: one of the two must have "
                                   "been used up, or be read through detach()"));
    }
    Tape* const first = std::exchange(tape, &other);
    if (first == nullptr) return;
    if (first->nodes_.size() >= other.nodes_.size()) tape = first;
    tape->absorb(tape == first ? other : *first);
  };
  for (const Tensor& input : inputs) {
    if (!input.value().leaf()) join(input.handle()->tape->whole());
  }
  const std::shared_ptr<Session> session = tape != nullptr ? tape->session_ : Session::current_or_new();
  // A taken-over op may have read leaves alone, and its tape has what it changed.
  if (const std::shared_ptr<Tape> taken_from = session->taken_from.lock()) join(taken_from->whole());
  session->taken_from.reset();
  std::shared_ptr<Tape> made;
  if (tape == nullptr) {
    made = std::make_shared<Tape>(session);
    made->verifier_ = Verifier::begin(!std::exchange(session->step_counted, true));
  } else {
    made = tape->shared_from_this();
  }
  made->take_histories(inputs);
  return made;
}

void Tape::absorb(Tape& other) {
  take_changes(other);
  for (Node& node : other.nodes_) {
    for (const ValuePtr& output : node.outputs) output->state().tape = this;
  }
  nodes_.merge(other.nodes_);
  if (verifier_ == nullptr) {
    verifier_ = std::move(other.verifier_);
  } else if (other.verifier_ != nullptr) {
    verifier_->absorb(*other.verifier_);
    other.verifier_.reset();
  }
  calls_.insert(calls_.end(), other.calls_.begin(), other.calls_.end());
  in_hand_ += other.in_hand_;
  heavy_replays_ += other.heavy_replays_;
  unsolvable_ += other.unsolvable_;
  unsolvable_bytes_ += other.unsolvable_bytes_;
  relied_on_.insert(relied_on_.end(), other.relied_on_.begin(), other.relied_on_.end());
  interrupted_ = interrupted_ || other.interrupted_;
  partly_used_ = partly_used_ || other.partly_used_;
  if (!save_error_) save_error_ = other.save_error_;
  other.state_ = State::Joined;
  other.joined_ = shared_from_this();
  other.leave_session();
}

}  // namespace palimpsest
