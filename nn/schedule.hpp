#pragma once

#include <cstdint>
#include <vector>

namespace palimpsest::nn {

/// The learning rate over the steps of a training run. Steps count from 0.
class Schedule {
 public:
  /// The same rate throughout. Throws ValueError (as all of these do) for a rate that is negative or no number.
  static Schedule constant(double rate);
  /// Divided by `divisor` at each milestone, a step. Throws ValueError unless they ascend.
  static Schedule step(double rate, std::vector<std::int64_t> milestones, double divisor = 10);
  /// Half a cosine from the rate at step 0 to 0 at step `total` (Loshchilov & Hutter 2017, without restarts).
  static Schedule cosine(double rate, std::int64_t total);

  /// The same schedule after a linear rise over the first `steps` steps.
  Schedule with_warmup(std::int64_t steps) const;

  double at(std::int64_t step) const;

 private:
  enum class Kind { Constant, Step, Cosine };
  explicit Schedule(Kind kind, double rate);

  Kind kind_;
  double rate_;
  std::vector<std::int64_t> milestones_;
  double divisor_ = 1;
  std::int64_t total_ = 1;
  std::int64_t warmup_ = 0;
};

}  // namespace palimpsest::nn
