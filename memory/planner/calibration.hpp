#pragma once

#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/memory/planner/rates.hpp>
#include <palimpsest/memory/policies.hpp>

namespace palimpsest::memory {

/// A run of an op that has been timed.
struct TimedRun {
  Work work;
  double seconds = 0;
};

/// The operations_per_second, bytes_per_second and seconds_per_run by which Rates::seconds comes closest to what the
/// runs took; the rest is as in `otherwise`. Least squares without negative costs, each run weighted by the inverse of
/// the time that is predicted for it, as if errors grew with the square root of a run's time: so short runs count, too,
/// and all runs together take as long by the rates as they did. A term that costs nothing gets a rate beyond any
/// machine's. Throws ValueError if no run took any time.
Rates fit_rates(std::span<const TimedRun> runs, const Rates& otherwise);

/// Finds a device's rates from training steps that are really run.
///
/// The steps of a model run in turns under the single policies, so that the runs timed are forward's, backward's and
/// replays. Other programs only ever make a run slower, so what counts is the least time that each run of the step has
/// taken over all rounds; fit_rates does the rest. The cost of offloading is not how long a move takes, most of which
/// is beside the computation, but by how much it makes the step longer: the offload policy takes turns with one that
/// computes the same and moves nothing. The median of the rounds' ratios, applied to the least time of the latter,
/// gives the seconds, and the bytes moved, there and back, over these are the rate. Less than a hundredth of the step
/// cannot be told from noise and is taken for that hundredth.
///
/// On CUDA the host waits for the device before and after each run, so that a launch counts as part of its run.
class Calibration {
 public:
  /// One training step under this policy for the whole model, the same in every call.
  using Step = std::function<void(const PolicyPtr& policy)>;
  /// Seconds since some moment.
  using Clock = std::function<double()>;

  explicit Calibration(Device device);
  /// With another clock than the system's.
  Calibration(Device device, Clock clock) : device_(device), clock_(std::move(clock)) {}

  /// Times `rounds` steps under each policy that acts on the model, after one that is not timed. `offloading` is an
  /// offload() to the folder that is to be measured. Throws ValueError for
  /// less than one round, StateError if a step does not consist of the same runs every time, and what the step throws.
  void measure(const Step& step, int rounds, const PolicyPtr& offloading = offload());

  /// From all that has been measured; what has not been is as in Rates::standard. Throws ValueError as fit_rates.
  Rates rates() const;

 private:
  struct Series;

  void take_turn(const Step& step, Series& series) const;

  Device device_;
  Clock clock_;
  std::vector<TimedRun> runs_;
  double moved_bytes_ = 0;
  double moving_seconds_ = 0;
};

}  // namespace palimpsest::memory
