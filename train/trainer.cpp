#include <palimpsest/train/trainer.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>

#include <palimpsest/autograd/kept_streams.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/train/interrupt.hpp>
#include <palimpsest/train/weights.hpp>

namespace palimpsest::train {

namespace {

std::unique_ptr<Batches> open_data(const Data& data, const Options& options) {
  if (!data.open) throw ValueError(concat_text("the data ", data.name, " cannot be opened: they have no `open`"));
  return data.open(options.batch_size / options.accumulate, options.device);
}

/// A batch that is not as the task describes it would make every forecast wrong.
void check_batch(const Task& task, const Batch& batch) {
  const std::vector<TensorSpec> expected = task.batch(batch.samples);
  const auto as_expected = [](const Tensor& tensor, const TensorSpec& spec) {
    return tensor && tensor.shape() == spec.shape && tensor.dtype() == spec.dtype;
  };
  if (std::equal(batch.tensors.begin(), batch.tensors.end(), expected.begin(), expected.end(), as_expected)) return;
  std::vector<std::string> served, wanted;
  for (const Tensor& tensor : batch.tensors) {
    served.push_back(tensor ? concat_text(tensor.shape(), " ", tensor.dtype()) : "an empty tensor");
  }
  for (const TensorSpec& spec : expected) wanted.push_back(concat_text(spec.shape, " ", spec.dtype));
  throw ShapeError(concat_text("the data of ", task.name, " served ", join(served), "; expected ", join(wanted),
                               " as its `batch` says"));
}

Device trained_on(Device device) {
  if (!is_meta(device)) return device;
  throw DeviceError(
      concat_text("a run on ", device, " would have no numbers to train with; rehearse() runs its steps"));
}

/// Data that end early would make a schedule, a forecast and a mean over the samples wrong.
[[noreturn]] void refuse_short(const Data& data, std::int64_t samples) {
  throw DataError(concat_text("the data ", data.name, " ended after ", samples, " samples, expected ", data.samples));
}

bool is_same_folder(const std::string& folder, const std::string& other) {
  std::error_code ignored;
  return std::filesystem::equivalent(folder, other, ignored);
}

std::string precision_name(ops::Precision precision) { return precision == ops::Precision::Tf32 ? "tf32" : "fp32"; }

}  // namespace

/// While it lives, a device's memory has a limit, if one is set.
class Trainer::LimitScope {
 public:
  explicit LimitScope(Device device) : device_(device), before_(allocator(device).limit()) {}
  ~LimitScope() { allocator(device_).set_limit(before_); }
  LimitScope(const LimitScope&) = delete;
  LimitScope& operator=(const LimitScope&) = delete;

  /// Never more than what the program itself allows.
  void set(std::size_t limit) { allocator(device_).set_limit(before_ == 0 ? limit : std::min(limit, before_)); }

 private:
  Device device_;
  std::size_t before_;
};

Trainer::Trainer(Task task, Options options, const MemoryChoice& memory)
    : task_(std::move(task)),
      options_(std::move(options)),
      length_(run_length(task_, options_)),
      budget_(memory.budget),
      progress_(task_, options_),
      before_(allocator(trained_on(options_.device)).stats()),
      training_(task_, nn::Init(options_.seed, options_.device, Dtype::Float32, options_.products)),
      batches_(task_.training.open ? open_data(task_.training, options_) : nullptr),
      weights_(storage::safetensors_file(options_.save_weights)),
      meter_(options_.device, before_),
      checkpoints_(kept_as(options_)),
      state_{training_.model(), training_.optimiser(), {training_.generator()}, &record_, settings()} {
  if (task_.schedule) {
    schedule_ = task_.schedule(length_.steps);
    state_.learning_rate = [this](std::int64_t step) { return schedule_->at(step); };
    state_.rate_follows_from = concat_text("; a schedule follows from ", options_.names.length, ", too");
  }
  memory.apply(training_.model());
  load_weights(training_.model(), options_);
  checkpoints_.set_warn([this](const std::string& what) { warn(what); });
  checkpoints_.set_smaller_is_better(task_.smaller_is_better);
  resume();
}

/// All that the bits of a run depend on but its learning rates, which are compared step by step.
std::vector<Setting> Trainer::settings() const {
  std::vector<Setting> all = {{"the model", task_.name},
                              {options_.names.batch_size, std::to_string(options_.batch_size)},
                              {options_.names.seed, std::to_string(options_.seed)},
                              {options_.names.precision, precision_name(options_.products.precision)},
                              {"the number of steps in an epoch", std::to_string(length_.steps_per_epoch)}};
  if (options_.accumulate > 1) all.push_back({options_.names.accumulate, std::to_string(options_.accumulate)});
  if (!task_.frozen.empty()) all.push_back({options_.names.freeze, join(task_.frozen)});
  if (task_.freeze_statistics) all.push_back({options_.names.freeze_statistics, "on"});
  all.insert(all.end(), options_.settings.begin(), options_.settings.end());
  return all;
}

void Trainer::resume() {
  const std::string& folder = checkpoints_.folder();
  const bool goes_on = !options_.resume.empty() && is_same_folder(options_.resume, folder);
  if (!goes_on && !checkpoints_.last().empty()) {
    throw ResumeError(concat_text(folder, " has the checkpoints of a run, ", checkpoints_.last(), " is the newest: ",
                                  options_.names.resume, " goes on with it, another folder begins another"));
  }
  if (options_.resume.empty()) return;
  if (goes_on) {
    checkpoints_.resume(state_);
    resumed_from_ = checkpoints_.last();
  } else {
    const Resumed resumed = train::resume(options_.resume, state_);
    for (const auto& [file, why] : resumed.damaged) warn(why);
    resumed_from_ = resumed.file;
  }
  // The same folder may be given for both: a program that is started again and again needs no other first time.
  if (resumed_from_.empty() && !goes_on) throw DataError(concat_text("there is no checkpoint in ", options_.resume));
  if (steps_done() > length_.steps) {
    throw ResumeError(concat_text("the run in ", options_.resume, " has done ", steps_done(), " steps, and by ",
                                  options_.names.length, " it has ", length_.steps));
  }
}

/// The epoch in which the run goes on. One whose steps are all done may still want its evaluation.
std::int64_t Trainer::first_epoch() const {
  if (steps_done() == 0) return 0;
  const std::int64_t epoch = (steps_done() - 1) / length_.steps_per_epoch;
  const bool complete = steps_done() >= steps_before(epoch + 1);
  return complete && (record_.metric() || !time_to_evaluate(epoch)) ? epoch + 1 : epoch;
}

void Trainer::run(const std::function<void()>& after_epoch, std::ostream& out) {
  const InterruptGuard guard;
  LimitScope limit(options_.device);
  if (budget_ != 0) limit.set(budget_ + before_.live + room_);
  const VerifyScope verify(options_.verify);
  if (batches_ == nullptr) batches_ = open_data(task_.training, options_);
  for (std::int64_t epoch = first_epoch(); epoch < length_.epochs && !interrupted(); ++epoch) {
    train_epoch(epoch, limit);
    if (time_to_evaluate(epoch) && !interrupted()) evaluate();
    if (interrupted()) break;
    progress_.epoch(epoch, record_.mean_loss(static_cast<std::size_t>(steps_before(epoch))), record_, out);
    after_epoch();
    checkpoints_.after_epoch(state_, steps_done(), epoch + 1);
  }
  record_.interrupted = interrupted();
  record_.signal = interrupting_signal();
  kept_ = steps_done() == 0 || checkpoints_.save(state_, steps_done());
  progress_.clear();
  if (weights_) {
    storage::Metadata metadata = task_.metadata;
    metadata["model"] = task_.name;
    storage::stage_weights(weights_, storage::state_of(training_.model()), metadata).commit();
  }
}

void Trainer::warn(const std::string& what) {
  const std::string& program = options_.names.program;
  progress_.warn(program.empty() ? what : program + ": " + what);
}

void Trainer::train_epoch(std::int64_t epoch, LimitScope& limit) {
  const std::int64_t first = steps_before(epoch);
  const std::int64_t last = steps_before(epoch + 1);
  if (steps_done() >= last) return;
  batches_->start_epoch_at(epoch, (steps_done() - first) * options_.accumulate);
  while (steps_done() < last && !interrupted()) {
    step(task_.training.samples - (steps_done() - first) * length_.batch_size, limit);
    progress_.step(epoch, record_, meter_.live(), meter_.peak().total);
    checkpoints_.after_step(state_, steps_done());
  }
}

/// `left`: samples of the epoch that no step has seen. Waiting for data counts as part of the step. On CUDA the host
/// waits for the device once in a step, to read the loss: the rest of the device's work is measured in the next one.
void Trainer::step(std::int64_t left, LimitScope& limit) {
  const std::int64_t index = steps_done();
  const std::int64_t samples = std::min(length_.batch_size, left);
  const auto start = std::chrono::steady_clock::now();
  std::optional<memory::StepRecorder> recorder;
  if (index == watched_step_) recorder.emplace(options_.device);
  if (schedule_) training_.optimiser().set_learning_rate(schedule_->at(index));
  const double loss = learn_in_budget(samples, limit, [&] {
    if (recorder) recorder->restart();
  });
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
  trained_ += taken;
  record_.steps.push_back({.loss = loss,
                           .milliseconds = taken.count(),
                           .samples = samples,
                           .kept_streams = training_.kept_streams(),
                           .learning_rate = training_.optimiser().learning_rate(),
                           .peak = meter_.take_lap()});
  tell_kept_streams();
  if (recorder) take_(recorder->take());
  if (stepped_) stepped_(record_.steps.back());
}

/// The next batch of a step of `samples` samples, of which `served` were in others.
Part Trainer::next_part(std::int64_t samples, std::int64_t& served) {
  const auto start = std::chrono::steady_clock::now();
  std::optional<Batch> batch = batches_->next();
  waited_ += std::chrono::steady_clock::now() - start;
  if (!batch) {
    const std::int64_t epoch = steps_done() / length_.steps_per_epoch;
    const std::int64_t before = record_.samples(static_cast<std::size_t>(steps_before(epoch)));
    refuse_short(task_.training, before + served);
  }
  check_batch(task_, *batch);
  const std::int64_t expected = std::min(length_.micro_batch, samples - served);
  if (batch->samples != expected) {
    throw DataError(concat_text("the data ", task_.training.name, " served a batch of ", batch->samples,
                                " samples, expected ", expected));
  }
  served += batch->samples;
  return {std::move(batch->tensors), static_cast<double>(batch->samples) / static_cast<double>(samples)};
}

/// Once: later steps are in the summary.
void Trainer::tell_kept_streams() {
  const RunRecord::KeptStreams kept = record_.kept_streams();
  if (kept.steps != 1 || record_.steps.back().kept_streams == 0) return;
  warn(concat_text("step ", kept.first + 1, ": ", kept.streams, " streams leave the range of ", options_.names.grid,
                   " and are kept instead of solved for"));
}

/// A budget is planned without the streams that numbers will not let be solved for, and their bytes come on top of it.
/// A step that had no room for them is undone; with room it is taken again, over the same batches.
double Trainer::learn_in_budget(std::int64_t samples, LimitScope& limit, const std::function<void()>& again) {
  for (;;) {
    try {
      return learn(samples, again);
    } catch (const KeptStreamsOutOfMemory& error) {
      if (budget_ == 0 || error.bytes() <= room_) throw;
      room_ = error.bytes();
      limit.set(budget_ + before_.live + room_);
    }
    warn(concat_text("step ", record_.steps.size() + 1, ": streams leave the range of ", options_.names.grid,
                     " and are kept, for which the budget has no room: from here on ", format_mebibytes(room_),
                     " more may be in use"));
    again();
    const std::int64_t epoch = steps_done() / length_.steps_per_epoch;
    batches_->start_epoch_at(epoch, (steps_done() - steps_before(epoch)) * options_.accumulate);
  }
}

/// A step over so many samples, whose number is in the message of what goes wrong with its numbers. Returns the loss.
double Trainer::learn(std::int64_t samples, const std::function<void()>& again) {
  const std::size_t number = record_.steps.size() + 1;
  std::int64_t served = 0;
  try {
    return training_.checked_step(
        length_.parts_of(samples), [&] { return next_part(samples, served); }, again);
  } catch (const NonFiniteError& error) {
    throw DivergedError(concat_text("step ", number, ": ", error.what(), "; try a smaller ",
                                    options_.names.learning_rate, " (it was ", training_.optimiser().learning_rate(),
                                    ")", kept_in()));
  } catch (const RangeError& error) {
    throw RangeError(concat_text("step ", number, ": ", error.what(), kept_in()));
  }
}

/// For the end of a message.
std::string Trainer::kept_in() {
  const std::string last = checkpoints_.last();
  return last.empty() ? "" : "; the last checkpoint is " + last;
}

bool Trainer::time_to_evaluate(std::int64_t epoch) const {
  if (task_.evaluation.samples == 0) return false;
  return epoch + 1 == length_.epochs || (epoch + 1) % options_.evaluate_every == 0;
}

std::optional<Score> Trainer::evaluate(const TakeScores& take) {
  const InterruptGuard guard;
  const PeakMeter::Pause pause(meter_);
  const PeakMeter meter(options_.device, before_);
  const std::optional<Score> total = [&] {
    try {
      return score(take);
    } catch (const OutOfMemory& error) {
      throw EvaluationOutOfMemory(error.what());
    }
  }();
  const MemoryPeak peak = meter.peak();
  if (peak.total > evaluation_peak_.total) evaluation_peak_ = peak;
  record_.interrupted = interrupted();
  if (!total) return std::nullopt;
  record_.evaluations.push_back({steps_done(), total->mean()});
  if (evaluated_) evaluated_(record_.evaluations.back());
  checkpoints_.after_evaluation(state_, steps_done());
  return total;
}

/// The score of the evaluation data; none if a signal asked for the end of the run meanwhile.
std::optional<Score> Trainer::score(const TakeScores& take) {
  const std::unique_ptr<Batches> batches = open_data(task_.evaluation, options_);
  batches->start_epoch(0);
  Score total;
  std::int64_t seen = 0;
  while (const std::optional<Batch> batch = batches->next()) {
    if (interrupted()) return std::nullopt;
    check_batch(task_, *batch);
    const Score score = training_.evaluate(batch->tensors, take);
    total.sum += score.sum;
    total.count += score.count;
    progress_.evaluating(seen += batch->samples);
  }
  if (seen != task_.evaluation.samples) refuse_short(task_.evaluation, seen);
  const std::vector<std::string> left_out =
      task_.evaluation.left_out ? task_.evaluation.left_out() : std::vector<std::string>();
  if (total.count == 0 && !left_out.empty()) {
    throw DataError(concat_text("none of the ", seen, " ", task_.unit, " to evaluate ", task_.name,
                                " with could be read: ", left_out.front()));
  }
  if (total.count == 0) throw ValueError(concat_text("the score of ", task_.name, " has counted nothing"));
  evaluated_samples_ = seen - static_cast<std::int64_t>(left_out.size());
  return total;
}

std::int64_t step_to_watch(const RunLength& length, std::int64_t samples, std::int64_t first) {
  const std::int64_t whole_batches = samples / length.batch_size;
  for (std::int64_t step = first + 1; step < length.steps; ++step) {
    if (step % length.steps_per_epoch < whole_batches) return step;
  }
  return first;
}

}  // namespace palimpsest::train
