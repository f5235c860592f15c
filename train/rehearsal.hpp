#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/train/memory_choice.hpp>
#include <palimpsest/train/options.hpp>
#include <palimpsest/train/peak_meter.hpp>
#include <palimpsest/train/training.hpp>

namespace palimpsest::train {

/// A training run on meta: the same steps over the same task, but no data and no arithmetic. Its memory is that of the
/// run, to the byte.
class Rehearsal {
 public:
  /// Throws what making the model and the optimiser throws, ValueError as run_length.
  Rehearsal(Task task, const Options& options);

  nn::Module& model() { return training_.model(); }
  const nn::Optimiser& optimiser() { return training_.optimiser(); }
  /// A training step with a whole batch.
  void step();
  /// Throws IdlePolicyError if a policy, or a part of one, has found nothing to act on in any step since it was set.
  void check_policies_acted() const;
  /// An evaluation of a batch between two steps; nothing where the task evaluates nothing.
  void evaluate();
  /// step() and check_policies_acted() under a policy for the whole model, or, where it is null, under those that the
  /// model has. The first step of
  /// all runs now if there was none: it is unlike the others, since the optimiser's state does not exist yet.
  memory::Rehearsal step_under();

 private:
  std::vector<Buffer> reserved(const Data& data, std::int64_t batch_size) const;
  std::vector<Tensor> batch_of(std::int64_t samples) const;
  /// Runs a part of the task; a DeviceError of it says that this is a rehearsal.
  void say_where(const std::function<void()>& run) const;

  Task task_;
  Device meta_;
  VerifyScope verify_;
  RunLength length_;
  std::int64_t evaluation_batch_size_;
  Training training_;
  std::vector<Buffer> reserved_;
  bool begun_ = false;
  std::optional<std::vector<std::string>> idle_;  // in every step since the policies were set
};

/// The memory of a training run to come, found out without data and without computing anything.
struct Forecast {
  std::int64_t parameters = 0;
  MemoryPeak peak;             ///< of the training steps
  MemoryPeak evaluation;       ///< of an evaluation between two steps; zero without one
  std::size_t reserved = 0;    ///< most that the allocator will take from the system, evaluations included
  std::size_t checkpoint = 0;  ///< of the tensors in a checkpoint; writing one takes none of the device's memory
};

/// Runs the first steps on meta, in milliseconds. Throws ValueError or ShapeError for a model that cannot be, a policy
/// that has nothing to act on, and a budget that an evaluation does not keep to.
Forecast rehearse(const Task& task, const Options& options, const MemoryChoice& memory);
/// The same for Options::memory.
Forecast rehearse(const Task& task, const Options& options);

/// The most bytes that are alive at once in the steps and in an evaluation: the part of the forecast that decides
/// whether a run fits, in half the time. Throws likewise.
std::size_t rehearse_bytes(const Task& task, const Options& options, const MemoryChoice& memory);

/// The second of the steps, or the first of a run that has no other, as memory::StepRecorder records it. Throws
/// likewise.
memory::StepTrace rehearse_step(const Task& task, const Options& options, const MemoryChoice& memory);

/// The memory of an evaluation without a run: the model's parameters and buffers, and what it takes beside them. Throws
/// likewise.
Forecast rehearse_evaluation_alone(const Task& task, const Options& options);

/// Bytes at the peak of an evaluation between two steps. They are the same under every policy: nothing is recorded.
std::size_t rehearse_evaluation(const Task& task, const Options& options);

}  // namespace palimpsest::train
