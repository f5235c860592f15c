#include <palimpsest/train/options.hpp>

#include <algorithm>
#include <cstdint>

#include <palimpsest/core/error.hpp>

namespace palimpsest::train {

RunLength run_length(const Task& task, const Options& options) {
  const std::int64_t samples = task.training.samples;
  if (samples < 1) throw ValueError(concat_text(task.name, ": there are no samples to train on"));
  if (!task.batch) throw ValueError(concat_text("the task ", task.name, " has no batch"));
  if (options.batch_size < 1 || options.epochs < 1) {
    throw ValueError(concat_text("a run of ", options.epochs, " epochs with batches of ", options.batch_size,
                                 ", expected at least one of each"));
  }
  if (options.accumulate < 1 || options.batch_size % options.accumulate != 0) {
    throw ValueError(concat_text(options.names.batch_size, " is ", options.batch_size, " and ",
                                 options.names.accumulate, " ", options.accumulate,
                                 ", expected a batch that this divides into equal ones"));
  }
  if (options.evaluate_every < 1) {
    throw ValueError(concat_text("an evaluation every ", options.evaluate_every, " epochs, expected at least 1"));
  }
  if (options.max_steps < 0)
    throw ValueError(concat_text("a run of ", options.max_steps, " steps, expected at least 0"));
  const std::int64_t batch_size = std::min(options.batch_size, samples);
  const std::int64_t per_epoch = (samples + batch_size - 1) / batch_size;
  if (options.epochs > INT64_MAX / per_epoch) {
    throw ValueError(concat_text("a run of ", options.epochs, " epochs has more steps than can be counted"));
  }
  const std::int64_t all = options.epochs * per_epoch;
  const std::int64_t steps = options.max_steps > 0 ? std::min(all, options.max_steps) : all;
  const std::int64_t micro_batch = std::min(options.batch_size / options.accumulate, samples);
  return {batch_size, per_epoch, (steps + per_epoch - 1) / per_epoch, steps, micro_batch};
}

std::int64_t evaluation_batch_size(const Task& task, const Options& options) {
  return std::min(options.batch_size / options.accumulate, task.evaluation.samples);
}

}  // namespace palimpsest::train
