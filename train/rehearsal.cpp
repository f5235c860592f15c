#include <palimpsest/train/rehearsal.hpp>

#include <algorithm>

#include <palimpsest/core/error.hpp>
#include <palimpsest/train/checkpoint_file.hpp>

namespace palimpsest::train {
namespace {

/// The steps after which the reserved bytes count as steady. Three or four have always been enough.
constexpr std::int64_t most_steps = 8;

/// The first step differs from all others: the optimiser's state does not exist yet. The peak is known after the
/// second, the reserved bytes when a step has found all its memory among what those before it have left.
void run_until_steady(Rehearsal& rehearsal, const PeakMeter& meter, std::int64_t steps) {
  std::size_t reserved = 0;
  for (std::int64_t step = 0; step < std::min(steps, most_steps); ++step) {
    if (step >= 2 && meter.peak().reserved == reserved) break;
    reserved = meter.peak().reserved;
    rehearsal.step();
  }
}

}  // namespace

Rehearsal::Rehearsal(Task task, const Options& options)
    : task_(std::move(task)),
      meta_(meta_of(options.device)),
      verify_(options.verify),
      length_(run_length(task_, options)),
      evaluation_batch_size_(evaluation_batch_size(task_, options)),
      training_(task_, nn::Init(options.seed, meta_, Dtype::Float32, options.products)),
      reserved_(reserved(task_.training, length_.micro_batch)) {}

std::vector<Buffer> Rehearsal::reserved(const Data& data, std::int64_t batch_size) const {
  return data.reserve ? data.reserve(batch_size, meta_) : std::vector<Buffer>();
}

std::vector<Tensor> Rehearsal::batch_of(std::int64_t samples) const {
  std::vector<Tensor> batch;
  for (const TensorSpec& spec : task_.batch(samples)) {
    batch.push_back(Tensor::empty(spec.shape, spec.dtype, meta_, Tag::Data));
  }
  return batch;
}

void Rehearsal::step() {
  std::vector<std::string> idle;
  std::int64_t samples = 0;
  const auto next = [&] {
    const std::int64_t count = std::min(length_.micro_batch, length_.batch_size - samples);
    samples += count;
    return Part{batch_of(count), static_cast<double>(count) / static_cast<double>(length_.batch_size)};
  };
  say_where([&] {
    training_.step(length_.parts_of(length_.batch_size), next, [&](const Tensor& loss) { idle = idle_policies(loss); });
  });
  const auto has_acted = [&](const std::string& one) { return std::find(idle.begin(), idle.end(), one) == idle.end(); };
  if (idle_) {
    std::erase_if(*idle_, has_acted);
  } else {
    idle_ = idle;
  }
  begun_ = true;
}

void Rehearsal::check_policies_acted() const {
  if (!idle_ || idle_->empty()) return;
  throw IdlePolicyError(concat_text("memory policy ", idle_->front(), " finds nothing to act on in this model"));
}

void Rehearsal::say_where(const std::function<void()>& run) const {
  try {
    run();
  } catch (const DeviceError& error) {
    throw DeviceError(
        concat_text("a rehearsal of ", task_.name, " on ", meta_, ", where tensors have no numbers: ", error.what()));
  }
}

void Rehearsal::evaluate() {
  if (evaluation_batch_size_ == 0) return;
  const std::vector<Buffer> feed = reserved(task_.evaluation, evaluation_batch_size_);
  say_where([&] { training_.evaluate(batch_of(evaluation_batch_size_)); });
}

memory::Rehearsal Rehearsal::step_under() {
  if (!begun_) step();
  return {meta_, [this](const PolicyPtr& policy) {
            if (policy != nullptr) {
              model().set_memory(policy);
              idle_.reset();
            }
            step();
            check_policies_acted();
          }};
}

Forecast rehearse(const Task& task, const Options& options, const MemoryChoice& memory) {
  const RunLength length = run_length(task, options);
  if (task.schedule) task.schedule(length.steps);
  Forecast result;
  allocator(meta_of(options.device)).release_cached();  // a planner's memory there is not in the run's process
  const PeakMeter meter(meta_of(options.device));
  Rehearsal rehearsal(task, options);
  memory.apply(rehearsal.model());
  run_until_steady(rehearsal, meter, length.steps);
  rehearsal.check_policies_acted();
  result.parameters = rehearsal.model().parameter_count();
  result.peak = meter.peak();
  result.reserved = result.peak.reserved;
  result.checkpoint = checkpoint_bytes(rehearsal.model(), rehearsal.optimiser());
  if (task.evaluation.samples > 0) {
    const PeakMeter evaluation(meta_of(options.device));
    rehearsal.evaluate();
    result.evaluation = evaluation.peak();
    result.reserved = std::max(result.reserved, result.evaluation.reserved);
  }
  if (memory.budget != 0 && result.evaluation.total > memory.budget) {
    throw ValueError(concat_text("memory budget of ", format_mebibytes(memory.budget),
                                 ": the evaluation between epochs needs ", format_mebibytes(result.evaluation.total),
                                 "; try ", options.names.no_evaluation, " or a smaller ", options.names.batch_size));
  }
  return result;
}

Forecast rehearse(const Task& task, const Options& options) {
  return rehearse(task, options, choose_memory(task, options));
}

std::size_t rehearse_bytes(const Task& task, const Options& options, const MemoryChoice& memory) {
  const PeakMeter meter(meta_of(options.device));
  Rehearsal rehearsal(task, options);
  memory.apply(rehearsal.model());
  for (std::int64_t step = 0; step < std::min<std::int64_t>(run_length(task, options).steps, 2); ++step) {
    rehearsal.step();
  }
  rehearsal.check_policies_acted();
  rehearsal.evaluate();
  return meter.peak().total;
}

memory::StepTrace rehearse_step(const Task& task, const Options& options, const MemoryChoice& memory) {
  Rehearsal rehearsal(task, options);
  memory.apply(rehearsal.model());
  if (run_length(task, options).steps > 1) rehearsal.step();
  memory::StepRecorder recorder(meta_of(options.device));
  rehearsal.step();
  rehearsal.check_policies_acted();
  return recorder.take();
}

Forecast rehearse_evaluation_alone(const Task& task, const Options& options) {
  Task alone = task;
  alone.training.reserve = nullptr;  // these data stay closed
  const PeakMeter meter(meta_of(options.device));
  Rehearsal rehearsal(alone, options);
  rehearsal.evaluate();
  return {.parameters = rehearsal.model().parameter_count(),
          .peak = {},
          .evaluation = meter.peak(),
          .reserved = meter.peak().reserved};
}

std::size_t rehearse_evaluation(const Task& task, const Options& options) {
  Rehearsal rehearsal(task, options);
  rehearsal.step();
  const PeakMeter meter(meta_of(options.device));
  rehearsal.evaluate();
  return meter.peak().total;
}

}  // namespace palimpsest::train
