#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <palimpsest/autograd/op.hpp>

namespace palimpsest {

class RangeMark;
class Value;
class Restoring;
struct Storage;

/// The place of an op that a policy does not know (Policy::place).
inline constexpr std::size_t no_place = static_cast<std::size_t>(-1);

/// The ways in which a value crosses from forward to backward. A name is for people; code asks for the way.
enum class Way : std::uint8_t {
  Keep,    ///< the bytes stay: no recipe
  Replay,  ///< computed again, into memory of the value's own
  Arena,   ///< computed again, into shared storage (Recipe::arena)
  Invert,  ///< solved from the output of a coupling
  Fetch,   ///< moved elsewhere and fetched back
  Other,   ///< by a recipe of the program's own
};

/// How one value crosses from forward to backward. Stateless or one object per value, as the recipe likes.
/// The absence of a recipe (a null pointer) means: keep the bytes.
class Recipe {
 public:
  virtual ~Recipe() = default;

  virtual std::string_view name() const = 0;

  /// Never Way::Keep, which is the absence of a recipe.
  virtual Way way() const { return Way::Other; }

  /// The node that restoring runs and whose turn in backward is the last moment at which it can be run; by default the
  /// value's producer. Null: restoring runs no node.
  virtual const Node* via(const Value& value) const;

  /// The values whose bytes restore() reads: they are made present first. By default the inputs of the value's
  /// producer.
  virtual std::vector<Value*> sources(const Value& value) const;

  /// True if restore() writes the very bytes of the first forward, given sources that are what they were. If it does
  /// not, they cannot be verified, nor can what is made from them.
  virtual bool exact(const Value& value) const;

  /// The arena that the bytes live in, in forward and when restored; -1 for memory of the value's own.
  virtual int arena() const { return -1; }

  /// A value that is restored on the way to another, and that backward will read, stays if this is not above the
  /// nesting of whatever the same plan restores after it; otherwise it goes again and is restored once more when it is
  /// wanted. A choice of an inner block's policy counts as nested deeper than all that an outer one has. With
  /// all the same, everything stays. The depths of the nodes of a binary tree over a chain of values give every
  /// schedule in which a checkpoint may be made on the way to another (Griewank & Walther 2000, "Revolve").
  virtual int nesting() const { return 0; }

  /// The forward pass has no more use for the bytes and they are about to be dropped. A recipe that moves them
  /// elsewhere does it here; one that moves them beside the computation holds on to `memory`, theirs, until they are
  /// there. When it lets go must follow from the order of calls alone, never from how fast the bytes move. Null
  /// `memory` is shared with others: the bytes must be read before this returns. Called at most once per value.
  virtual void save(const View& bytes, const std::shared_ptr<Storage>& memory);

  /// Backward will ask for these bytes, which have been saved, before long: a recipe that can bring them back beside
  /// the computation makes memory for them and begins. Returns whether they are on their way; by default they are not.
  /// An exception fails the step.
  virtual bool fetch_ahead(const Value& value);

  /// Brings the bytes back: `restoring` has the sources and the destination. Must write the very bytes of the first
  /// forward, unless the policy says that it is not exact. An exception leaves the value absent.
  virtual void restore(Restoring& restoring) = 0;
};

using RecipePtr = std::shared_ptr<Recipe>;

/// A unit of memory policy: a dense block, a reversible unit, a transition. Policies see its name.
class BlockInfo {
 public:
  std::string name;
  /// Null: that of the block around it; without one, keep everything.
  std::shared_ptr<const class Policy> policy;
  /// It stands for what a model does outside every block, which only a policy that covers the rest decides about.
  bool model = false;
  /// The engine's own, on CUDA: what is known of the streams that are solved for, in the order of their couplings.
  mutable std::vector<std::shared_ptr<RangeMark>> marks = {};
};

/// A later chance to give a value another recipe than the one it got when it was made.
struct Offer {
  enum class Kind {
    EntersBlock,   ///< the value is an input of the block that is being entered
    Solvable,      ///< `node`, just recorded, can be solved for the value (Op::solvable_input)
    InsideBranch,  ///< the value was made inside the branch that the coupling `node` has just added to its stream
  };
  Kind kind;
  const Node* node = nullptr;
};

/// Chooses recipes. Pure: the same answer in every step, from shapes, ops and blocks alone.
class Policy {
 public:
  virtual ~Policy() = default;

  virtual std::string_view name() const = 0;

  /// The recipe of a value that an op inside `block` makes. Null: keep it.
  virtual RecipePtr decide(const Value& value, const Op& op, const BlockInfo& block) const = 0;

  /// True if the value, an optional output (Needs::optional_outputs), is made and kept for backward. decide() and
  /// reconsider() are not asked about those.
  virtual bool keeps_optional(const Value& /*value*/, const Op& /*op*/, const BlockInfo& /*block*/) const {
    return false;
  }

  /// Asked when another recipe becomes possible. nullopt: leave the value as it is; null: keep it.
  virtual std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo& block) const;

  /// The place of an op in the step that the policy was made for, which Node::place then says; no_place if it has none
  /// there. Asked once more with its own answer as `next`, it gives the same. `next`: the place after that of the op
  /// with a policy that was recorded before, 0 if nothing is under way; no_place from one without a place on. `begins`:
  /// the op is the first of a model's call, or of a block's that is in no other, so that a step may begin with it
  /// whatever else is under way. By default ops are counted.
  virtual std::size_t place(const Op& /*op*/, std::size_t next, bool /*begins*/) const { return next; }

  /// True if the policy has something to do for a block in which this op is recorded. See idle_policies().
  virtual bool acts_on(const Op&) const { return true; }

  /// True if the policy asks for what happens without any: it cannot be asked for in vain.
  virtual bool keeps_everything() const { return false; }

  /// The policies that this one is composed of, each of which the user has asked for: it is idle if it acts on
  /// nothing, whatever the others do. A policy that is not composed is its only part.
  virtual std::vector<const Policy*> parts() const { return {this}; }

  /// True if its recipes move values out of the device's memory: then there must be room for them elsewhere.
  virtual bool offloads() const { return false; }

  /// True if the policy, set for a whole model, decides about what is outside every block, too. Otherwise that is kept.
  virtual bool covers_the_rest() const { return false; }
};

using PolicyPtr = std::shared_ptr<const Policy>;

}  // namespace palimpsest
