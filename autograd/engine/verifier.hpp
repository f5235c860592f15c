#pragma once

#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <palimpsest/autograd/value.hpp>
#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/core/fingerprint.hpp>

namespace palimpsest {

/// Fingerprints in device memory, numbered, and the verdict of their comparisons: kernels compare, and the host reads
/// the verdict once. For CUDA and, without the kernels, for MetaCuda.
class DeviceFingerprints {
 public:
  explicit DeviceFingerprints(Device device);

  /// Takes a fingerprint; returns its number. Throws OutOfMemory, DeviceError.
  std::size_t take(const View& bytes, Sample sample);
  /// Compares. The first comparison of all that finds a difference decides the verdict.
  void compare(const View& bytes, Sample sample, std::size_t with, std::uint64_t check);
  /// The check that found a difference first, 0 for none. Waits for the device. Throws DeviceError and what a kernel
  /// has found wrong in its data (RangeError, ValueError).
  std::uint64_t verdict() const;

 private:
  static constexpr std::size_t page_fingerprints = 512;

  Fingerprint* at(std::size_t number) const;

  Device device_;
  Buffer own_;  // the verdict, and the fingerprint that is being compared
  std::vector<Buffer> pages_;
  std::size_t taken_ = 0;
};

/// The memory of verification for one step: fingerprints of values that will be restored and of their sources.
///
/// On the CPU a difference is thrown where it is found. On CUDA the device compares, in the same order, and conclude()
/// throws what it has found first.
class Verifier {
 public:
  /// For a computation that begins, and with it a step if it `counts`; null where it is not verified.
  static std::unique_ptr<Verifier> begin(bool counts);

  /// Takes over what another one knows, of a computation that has joined.
  void absorb(Verifier& other);
  /// These have been judged and are used up: what lies at their values' addresses later is something else.
  void forget(const Nodes& nodes);

  /// Takes the fingerprint of a value's bytes, once. Nothing for bytes that are not the very ones forward made: changed
  /// in place by the user, or restored inexactly.
  void remember(const Value& value);
  /// The same for bytes that are about to go, if anything might bring them back.
  void leaves(const Value& value);

  /// A plan of restoring begins: within it nothing is compared twice.
  void begin_plan() { compared_.clear(); }
  /// The value is about to be restored: compares what it is restored from, all of which is there, with what it was in
  /// forward. Throws VerificationError naming the first that differs.
  void check_sources(const Value& value, std::span<Value* const> sources);
  /// The value has been restored: compares its bytes with those that went. Throws VerificationError.
  void check_restored(const Value& value, std::span<Value* const> sources);

  /// Throws the VerificationError that a device has found.
  void conclude() const;

  struct OnDevice;
  struct Mark {
    Fingerprint bytes = {};     ///< on the CPU
    OnDevice* where = nullptr;  ///< elsewhere: the device memory,
    std::size_t number = 0;     ///< and the number in it
    Sample sample = {};
    std::uint64_t version = 0;
    std::weak_ptr<const Value> of = {};  ///< keeps the value's address from being used again, not its bytes
  };
  /// The state of the node's op (Op::state), which is about to be run again.
  std::vector<Mark> state_before(const Node& node);
  /// The run is over and may have changed none of it. Throws VerificationError.
  void check_state(const Node& node, const std::vector<Mark>& before);

 private:
  /// Something that was compared, for the message if it differs.
  struct Check {
    enum class Kind { Source, Restored, State };
    Kind kind;
    const Value* value;  // null for State
    const Node* run;     // the node that is run; null where none is
    std::string recipe = {};
    std::size_t sources = 0;
    std::size_t unknown_sources = 0;
  };

  Verifier(Verify verify, std::uint64_t step) : verify_(verify), step_(step) {}

  Sample sample_of(const Value& value) const;
  /// The sample of the state of this node's op, which is looked at as a whole or not at all.
  Sample sample_of(const Node& node) const;
  Mark take(const View& bytes, Sample sample);
  void compare(const View& bytes, const Mark& mark, Check check);
  /// The fingerprint that the value's bytes can be held against, if there is one.
  const Mark* mark_of(const Value& value) const;
  OnDevice& on(Device device);
  std::string describe(const Check& check) const;

  Verify verify_;
  std::uint64_t step_;
  std::unordered_map<const Value*, Mark> marks_;
  std::unordered_set<const Value*> inexact_;        // those whose bytes were restored, and not to the bit
  std::unordered_set<const Value*> compared_;       // in this plan
  std::vector<std::unique_ptr<OnDevice>> devices_;  // several of one device where computations have joined
};

struct Verifier::OnDevice {
  Device device;
  DeviceFingerprints fingerprints;
  std::vector<Check> checks;  // that wait for a verdict
};

}  // namespace palimpsest
