#pragma once

#include <map>

#include <palimpsest/core/generator.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {

/// The policy of the i-th block that a step enters.
using PolicyOfBlock = std::function<PolicyPtr(int)>;

/// The results of a training step, bit for bit.
struct Outcome {
  Bits loss;
  std::vector<Bits> gradients;
  std::vector<Bits> buffers;
  std::uint64_t counters = 0;

  bool operator==(const Outcome&) const = default;
};

/// A random directed graph of ops inside random blocks: a function of the seed, and the same in every step whatever the
/// policies. Along the way it does what users do: keeps tensors and reads them later, drops them early, moves them into
/// ops or not, uses a tensor twice, leaves outputs unused.
class RandomGraph {
 public:
  explicit RandomGraph(std::uint64_t seed) : seed_(seed), labels_(from_vector<std::int32_t>({2}, {0, 2})) {}

  /// Called by an op after every instruction; see Watch. The user then keeps and reads nothing along the way.
  void set_watch(Tell watch) { watch_ = std::move(watch); }

  /// Records a step and returns its loss. Tensors that the user keeps stay in this object, and are checked against
  /// their first bits, now and in check_kept().
  Tensor forward(const PolicyOfBlock& policies);
  /// forward, backward, and what they leave behind. Gradients accumulate unless they are cleared.
  Outcome step(const PolicyOfBlock& policies);

  void check_kept() const;
  void drop_kept() { kept_.clear(); }
  void clear_gradients() const;
  /// Gradients, buffers and random counters as they are.
  Outcome state() const;
  /// The bytes of all parameters.
  std::vector<Bits> parameters() const;

 private:
  friend class Builder;
  struct Kept {
    Tensor tensor;
    Bits bits;
  };

  std::uint64_t seed_;
  Tensor labels_;
  Tell watch_;
  std::vector<Tensor> parameters_;
  std::vector<ops::RunningStatistics> statistics_;
  std::shared_ptr<Generator> dropout_ = std::make_shared<Generator>(Generator{7, 0});
  std::vector<Kept> kept_;
};

/// Random but pure decisions among all recipes: keep, replay, three arenas, fetch, invert. `salt` chooses among them.
PolicyPtr chaos(std::uint64_t salt);

}  // namespace palimpsest::test
