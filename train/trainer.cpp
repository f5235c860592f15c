#include <palimpsest/train/trainer.hpp>

#include <algorithm>
#include <chrono>

#include <palimpsest/core/error.hpp>
#include <palimpsest/train/interrupt.hpp>

namespace palimpsest::train {

namespace {

std::unique_ptr<Batches> opened(const Data& data, const Options& options) {
  if (!data.open) throw ValueError(concat_text("the data ", data.name, " cannot be opened: they have no `open`"));
  return data.open(options.batch_size, options.device);
}

/// A batch that is not as the task describes it would make every forecast wrong.
void check_batch(const Task& task, const Batch& batch) {
  const std::vector<TensorSpec> expected = task.batch(batch.samples);
  const auto as_expected = [](const Tensor& tensor, const TensorSpec& spec) {
    return tensor.shape() == spec.shape && tensor.dtype() == spec.dtype;
  };
  if (std::equal(batch.tensors.begin(), batch.tensors.end(), expected.begin(), expected.end(), as_expected)) return;
  const auto text = [](const auto& tensors, const auto& shape, const auto& dtype) {
    std::string list;
    for (const auto& each : tensors) list += concat_text(list.empty() ? "" : ", ", shape(each), " ", dtype(each));
    return list;
  };
  throw ShapeError(concat_text(
      "the data of ", task.name, " served ",
      text(
          batch.tensors, [](const Tensor& t) { return t.shape(); }, [](const Tensor& t) { return t.dtype(); }),
      "; expected ",
      text(
          expected, [](const TensorSpec& t) { return t.shape; }, [](const TensorSpec& t) { return t.dtype; }),
      " as its `batch` says"));
}

}  // namespace

Trainer::LimitScope::LimitScope(Device device, std::size_t limit)
    : device_(device), before_(allocator(device).limit()) {
  if (limit != 0) allocator(device).set_limit(before_ == 0 ? limit : std::min(limit, before_));
}

Trainer::LimitScope::~LimitScope() { allocator(device_).set_limit(before_); }

Trainer::Trainer(Task task, Options options, const MemoryChoice& memory)
    : task_(std::move(task)),
      options_(std::move(options)),
      length_(run_length(task_, options_)),
      progress_(task_, options_),
      training_(task_, nn::Init(options_.seed, options_.device)),
      limit_(options_.device, memory.budget),
      batches_(opened(task_.training, options_)),
      meter_(options_.device),
      verify_(options_.verify) {
  if (task_.schedule) schedule_ = task_.schedule(length_.steps);
  memory.apply(training_.model());
}

void Trainer::run(const std::function<void()>& after_epoch) {
  for (std::int64_t epoch = 0; epoch < length_.epochs && !interrupted(); ++epoch) {
    const std::size_t first_step = record_.steps.size();
    train_epoch(epoch);
    if (time_to_evaluate(epoch) && !interrupted()) evaluate();
    if (interrupted()) break;
    progress_.epoch(epoch, record_.mean_loss(first_step), record_);
    after_epoch();
  }
  record_.interrupted = interrupted();
  progress_.clear();
}

void Trainer::warn(const std::string& what) {
  const std::string& program = options_.names.program;
  progress_.warn(program.empty() ? what : program + ": " + what);
}

void Trainer::train_epoch(std::int64_t epoch) {
  batches_->start_epoch(epoch);
  const auto done = [&] { return interrupted() || static_cast<std::int64_t>(record_.steps.size()) == length_.steps; };
  while (!done() && step()) progress_.step(epoch, record_, meter_.live(), meter_.peak().total);
}

/// False at the end of the epoch. Waiting for data counts as part of the step. On CUDA the host waits for the device
/// once in a step, to read the loss: the rest of the device's work is measured in the next one.
bool Trainer::step() {
  const auto index = static_cast<std::int64_t>(record_.steps.size());
  const auto start = std::chrono::steady_clock::now();
  std::optional<memory::StepRecorder> recorder;
  if (index == watched_step_) recorder.emplace(options_.device);
  {
    const std::optional<Batch> batch = batches_->next();
    if (!batch) return false;
    check_batch(task_, *batch);
    if (schedule_) training_.optimiser().set_learning_rate(schedule_->at(index));
    const double loss = learn(batch->tensors);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    record_.steps.push_back({loss, taken.count(), batch->samples});
  }
  if (recorder) take_(recorder->take());
  return true;
}

/// A step whose number is in the message of what goes wrong with its numbers.
double Trainer::learn(std::span<const Tensor> batch) {
  const std::size_t number = record_.steps.size() + 1;
  try {
    return training_.checked_step(batch);
  } catch (const NonFiniteError& error) {
    throw DivergedError(concat_text("step ", number, ": ", error.what(), "; try a smaller ",
                                    options_.names.learning_rate, " (it was ", training_.optimiser().learning_rate(),
                                    ")"));
  } catch (const RangeError& error) {
    throw RangeError(concat_text("step ", number, ": ", error.what()));
  }
}

bool Trainer::time_to_evaluate(std::int64_t epoch) const {
  if (task_.evaluation.samples == 0) return false;
  return epoch + 1 == length_.epochs || (epoch + 1) % options_.evaluate_every == 0;
}

void Trainer::evaluate() {
  const PeakMeter::Pause pause(meter_);
  const PeakMeter meter(options_.device);
  const std::optional<Score> total = [&] {
    try {
      return score();
    } catch (const OutOfMemory& error) {
      throw EvaluationOutOfMemory(error.what());
    }
  }();
  const MemoryPeak peak = meter.peak();
  if (peak.total > evaluation_peak_.total) evaluation_peak_ = peak;
  if (total) record_.evaluations.push_back({static_cast<std::int64_t>(record_.steps.size()), total->mean()});
}

/// The score of the evaluation data; none if a signal asked for the end of the run meanwhile.
std::optional<Score> Trainer::score() {
  const std::unique_ptr<Batches> batches = opened(task_.evaluation, options_);
  batches->start_epoch(0);
  Score total;
  std::int64_t seen = 0;
  while (const std::optional<Batch> batch = batches->next()) {
    if (interrupted()) return std::nullopt;
    check_batch(task_, *batch);
    const Score score = training_.evaluate(batch->tensors);
    total.sum += score.sum;
    total.count += score.count;
    progress_.evaluating(seen += batch->samples);
  }
  return total;
}

std::int64_t step_to_watch(const RunLength& length, std::int64_t samples) {
  const std::int64_t whole_batches = samples / length.batch_size;
  for (std::int64_t step = 1; step < length.steps; ++step) {
    if (step % length.steps_per_epoch < whole_batches) return step;
  }
  return 0;
}

}  // namespace palimpsest::train
