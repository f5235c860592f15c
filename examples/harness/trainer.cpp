#include "examples/harness/trainer.hpp"

#include <chrono>

#include <palimpsest/ops/cross_entropy.hpp>
#include "examples/harness/interrupt.hpp"

namespace palimpsest::harness {

Trainer::Trainer(nn::Classifier& model, const ImageData& data, const Options& options, const TrainingDefaults& defaults,
                 Device device)
    : model_(model),
      data_(data),
      options_(options),
      device_(device),
      length_(run_length(options)),
      sgd_(make_sgd(model, options, defaults)),
      schedule_(make_schedule(options, length_.steps)),
      feed_(data.training, training_batches(options, defaults, data), device),
      meter_(device),
      verify_(parse_verify(options.verify)) {}

void Trainer::run(Progress& progress, const std::function<void()>& after_epoch) {
  for (std::int64_t epoch = 0; epoch < length_.epochs && !interrupted(); ++epoch) {
    const std::size_t first_step = record_.steps.size();
    train_epoch(epoch, progress);
    if (time_to_evaluate(epoch) && !interrupted()) evaluate(progress);
    if (interrupted()) break;
    progress.epoch(epoch, record_.mean_loss(first_step), record_);
    after_epoch();
  }
  record_.interrupted = interrupted();
}

void Trainer::train_epoch(std::int64_t epoch, Progress& progress) {
  feed_.start_epoch(epoch);
  const auto done = [&] { return interrupted() || static_cast<std::int64_t>(record_.steps.size()) == length_.steps; };
  while (!done()) {
    const std::optional<datasets::FedBatch> batch = feed_.next();
    if (!batch) break;
    step(*batch);
    progress.step(epoch, record_, meter_.live(), meter_.peak().total);
  }
}

/// On CUDA the host waits for the device once in a step, where it reads the loss. What comes after that in a step is
/// measured in the next one.
void Trainer::step(const datasets::FedBatch& batch) {
  const auto index = static_cast<std::int64_t>(record_.steps.size());
  const auto start = std::chrono::steady_clock::now();
  sgd_.set_learning_rate(schedule_.at(index));
  double loss = 0;
  std::optional<memory::StepRecorder> log;
  if (index == watched_step_) log.emplace(device_);
  try {
    loss = train_step(model_, sgd_, take(feed_, batch));
  } catch (const DivergedError& error) {
    throw DivergedError(concat_text("step ", index + 1, ": ", error.what(), "; try a smaller --lr (it was ",
                                    sgd_.learning_rate(), ")"));
  } catch (const RangeError& error) {
    throw RangeError(concat_text("step ", index + 1, ": ", error.what(), "; try a smaller --grid or a smaller --lr"));
  }
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
  record_.steps.push_back({loss, taken.count(), batch.size});
  if (log) take_(log->take());
}

bool Trainer::time_to_evaluate(std::int64_t epoch) const {
  return options_.evaluate && (epoch + 1 == length_.epochs || (epoch + 1) % options_.evaluate_every == 0);
}

void Trainer::evaluate(Progress& progress) {
  meter_.pause();
  const PeakMeter meter(device_);
  const std::optional<double> accuracy = [&] {
    try {
      return test_accuracy(model_, data_.test, test_batches(options_, data_), device_, progress);
    } catch (const OutOfMemory& error) {
      throw EvaluationOutOfMemory(error.what());
    }
  }();
  const MemoryPeak peak = meter.peak();
  if (peak.total > evaluation_peak_.total) evaluation_peak_ = peak;
  meter_.resume();
  if (accuracy) record_.evaluations.push_back({static_cast<std::int64_t>(record_.steps.size()), *accuracy});
}

std::optional<double> test_accuracy(nn::Classifier& model, const datasets::ImageSet& test,
                                    const datasets::LoaderOptions& batches, Device device, Progress& progress) {
  const NoGrad no_grad;
  datasets::Feed feed(test, batches, device);
  feed.start_epoch(0);
  std::int64_t correct = 0;
  std::int64_t seen = 0;
  model.train(false);
  while (const std::optional<datasets::FedBatch> batch = feed.next()) {
    if (interrupted()) break;
    const Samples samples = take(feed, *batch);
    correct += ops::count_correct(model(samples.images), samples.labels);
    progress.evaluating(seen += batch->size, test.count);
  }
  model.train(true);
  if (seen < test.count) return std::nullopt;
  return static_cast<double>(correct) / static_cast<double>(test.count);
}

}  // namespace palimpsest::harness
