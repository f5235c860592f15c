#include "examples/harness/dry_run.hpp"

#include <algorithm>

#include "examples/harness/blame_flags.hpp"

namespace palimpsest::harness {
namespace {

/// Steps after which no more is waited for that what is reserved stays as it is. Three or four have always been enough.
constexpr std::int64_t most_steps = 8;

Forecast forecast(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                  const TrainingDefaults& defaults, Device device) {
  const RunLength length = run_length(options);
  make_schedule(options, length.steps);
  Forecast result;
  allocator(meta_of(device)).release_cached();  // what a planner has cached there is not in the run's process
  PeakMeter meter(meta_of(device));
  MetaTraining training(make_model, options, defaults, device);
  memory.apply(training.model());
  // The first step differs from all others: the optimiser's state does not exist yet. The peak is known after the
  // second, what is reserved when a step has found all its memory among what those before it have left.
  std::size_t reserved = 0;
  for (std::int64_t step = 0; step < std::min<std::int64_t>(length.steps, most_steps); ++step) {
    if (step >= 2 && meter.peak().reserved == reserved) break;
    reserved = meter.peak().reserved;
    training.step();
  }
  result.parameters = training.model().parameter_count();
  result.peak = meter.peak();
  result.reserved = result.peak.reserved;
  if (options.evaluate) {
    const PeakMeter evaluation(meta_of(device));
    training.evaluate();
    result.evaluation = evaluation.peak();
    result.reserved = std::max(result.reserved, result.evaluation.reserved);
  }
  if (memory.budget != 0 && result.evaluation.total > memory.budget) {
    throw ValueError(concat_text("memory budget of ", format_mebibytes(memory.budget),
                                 ": the evaluation between epochs needs ", format_mebibytes(result.evaluation.total),
                                 "; try --no-eval or a smaller --batch-size"));
  }
  return result;
}

}  // namespace

Forecast dry_run(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                 const TrainingDefaults& defaults, Device device) {
  return blame_flags([&] { return forecast(make_model, memory, options, defaults, device); });
}

Forecast dry_run(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults, Device device) {
  const MemoryChoice memory = blame_flags([&] { return choose_memory(make_model, options, defaults, device); });
  return dry_run(make_model, memory, options, defaults, device);
}

std::size_t dry_run_bytes(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                          const TrainingDefaults& defaults, Device device) {
  return blame_flags([&] {
    const PeakMeter meter(meta_of(device));
    MetaTraining training(make_model, options, defaults, device);
    memory.apply(training.model());
    for (std::int64_t step = 0; step < std::min<std::int64_t>(run_length(options).steps, 2); ++step) training.step();
    if (options.evaluate) training.evaluate();
    return meter.peak().total;
  });
}

memory::StepTrace record_dry_run(const MakeModel& make_model, const MemoryChoice& memory, const Options& options,
                                 const TrainingDefaults& defaults, Device device) {
  return blame_flags([&] {
    MetaTraining training(make_model, options, defaults, device);
    memory.apply(training.model());
    if (run_length(options).steps > 1) training.step();
    memory::StepRecorder log(meta_of(device));
    training.step();
    return log.take();
  });
}

}  // namespace palimpsest::harness
