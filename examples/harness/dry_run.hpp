#pragma once

#include <memory>

#include <palimpsest/memory/planner/step_trace.hpp>
#include <palimpsest/nn/classifier.hpp>
#include <palimpsest/nn/layers.hpp>
#include "examples/harness/image_data.hpp"
#include "examples/harness/memory_choice.hpp"
#include "examples/harness/meta_training.hpp"
#include "examples/harness/peak_meter.hpp"

namespace palimpsest::harness {

/// What a training run will be, found out without data and without computing anything.
struct Forecast {
  std::int64_t parameters = 0;
  MemoryPeak peak;           ///< of the training steps
  MemoryPeak evaluation;     ///< of an evaluation between two steps; zero without --eval
  std::size_t reserved = 0;  ///< most that the allocator will take from the system, evaluations included
};

/// Runs the first steps on the meta device that stands for `device`: milliseconds in which a model that cannot be, a
/// policy that has nothing to act on, a budget that is too small and the peak of memory come to light. Throws
/// UsageError for what the flags are to blame for.
Forecast dry_run(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                 const TrainingDefaults& defaults, Device device = Device::Cpu);

/// The same for the --memory in the options.
Forecast dry_run(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                 Device device = Device::Cpu);

/// The most bytes that are alive at once, in the steps and, unless it is off, in an evaluation: what of the forecast
/// decides whether a run fits, in half the time. Throws likewise.
std::size_t dry_run_bytes(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                          const TrainingDefaults& defaults, Device device = Device::Cpu);

/// The second of those steps, or the first of a run that has no other, as memory::StepRecorder records it; throws
/// likewise.
memory::StepTrace record_dry_run(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                                 const TrainingDefaults& defaults, Device device = Device::Cpu);

}  // namespace palimpsest::harness
