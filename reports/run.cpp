#include <palimpsest/reports/run.hpp>

#include <algorithm>

#include <palimpsest/autograd/kept_streams.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/reports/advice.hpp>
#include <palimpsest/reports/run_log.hpp>
#include <palimpsest/train/interrupt.hpp>
#include <palimpsest/train/weights.hpp>

namespace palimpsest::reports {
namespace {

/// A folder that cannot hold the file of the offload policy is found out before anything takes long.
void prepare_offload(const train::Options& options) {
  if (options.device != Device::Cpu) return;
  if (memory::parse(options.memory).offloads() || !options.offload_dir.empty())
    memory::prepare_offload(train::offload_options(options));
}

LogResumed log_resumed(const train::RunRecord& record) {
  LogResumed resumed{.steps = static_cast<std::int64_t>(record.steps.size())};
  for (const train::StepResult& step : record.steps) resumed.losses.push_back(step.loss);
  return resumed;
}

}  // namespace

void check(const train::Options& options, const Files& files) {
  train::rates_for(options);
  const train::Checkpoints folder(train::kept_as(options));
  const WholeFile report(files.report);
  const WholeFile weights = storage::safetensors_file(options.save_weights);
  const StepPictures pictures(files);
  if (!files.log_dir.empty()) check_log(files.log_dir, !options.resume.empty());
  const std::vector<std::string> names = {files.report, files.page, files.snapshot, files.trace, options.save_weights};
  check_files_differ(names);
  if (!options.weights.empty()) const storage::SafetensorsReader readable(options.weights);
  prepare_offload(options);
}

Run::Run(train::Task task, train::Options options, Files files)
    : task_(std::move(task)), options_(std::move(options)), files_(std::move(files)) {
  check(options_, files_);
  weights_ = train::check_weights(task_, options_);
  memory_ = train::choose_memory(task_, options_);
  try {
    forecast_ = train::rehearse(task_, options_, memory_);
  } catch (const IdlePolicyError& error) {
    throw IdlePolicyError(error.what() + policy_advice(task_, options_));
  }
  check_device();
}

void Run::check_device() const {
  const std::size_t there = left_on(options_.device);
  const auto has = [&] { return concat_text(", ", options_.device, " has ", format_mebibytes(there), " left"); };
  if (forecast_.peak.total > there) {
    throw OutOfMemory(concat_text("a step under ", options_.memory, " needs ", format_mebibytes(forecast_.peak.total),
                                  has(), memory_advice(task_, options_, there)));
  }
  if (forecast_.evaluation.total > there) {
    throw OutOfMemory(concat_text("an evaluation needs ", format_mebibytes(forecast_.evaluation.total), has(),
                                  evaluation_advice(task_, options_, there)));
  }
}

train::Trainer& Run::trainer() {
  if (!trainer_) throw StateError("this run has not been trained");
  return *trainer_;
}

std::string Run::announcement() const {
  std::string text = concat_text(task_.name, " under ", options_.memory, " will need ",
                                 format_mebibytes(forecast_.peak.total), " at its peak\n");
  text += thrift_advice(task_, options_, forecast_.peak.total);
  const std::string& kept_in = options_.checkpoints.folder.empty() ? options_.resume : options_.checkpoints.folder;
  if (!kept_in.empty()) {
    text += concat_text("a checkpoint takes ", format_mebibytes(forecast_.checkpoint), " in ", kept_in, "\n");
  }
  if (memory_.planned != nullptr) text += train::describe(memory_.recipes, options_.names) + "\n";
  if (weights_) text += concat_text("weights of ", options_.weights, ": ", weights_->describe(), "\n");
  return text;
}

bool Run::train(std::ostream& out, std::vector<Field> fields) {
  trainer_.reset();
  const bool limited = memory_.budget != 0 || allocator(options_.device).limit() != 0;
  const std::size_t there = memory_.budget != 0 ? memory_.budget : left_on(options_.device);
  const std::size_t limit = limited ? there : 0;
  try {
    return train_and_report(out, fields);
  } catch (const train::EvaluationOutOfMemory& error) {
    throw OutOfMemory(error.what() + evaluation_advice(task_, options_, limit));
  } catch (const KeptStreamsOutOfMemory& error) {
    throw OutOfMemory(error.what() + concat_text("; no forecast knows of those, and ", options_.names.memory,
                                                 memory::checkpoint()->name(), " has none"));
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(error.what() + memory_advice(task_, options_, limit));
  }
}

bool Run::train_and_report(std::ostream& out, const std::vector<Field>& fields) {
  const WholeFile file(files_.report);
  const StepPictures pictures(files_);
  // Before the first step, since the training would not heed Ctrl-C meanwhile: a plan for a deep net takes seconds.
  PageFacts facts = page_facts();
  const train::InterruptGuard guard;
  train::Trainer& trainer = trainer_.emplace(task_, options_, memory_);
  pictures_failed_ = false;
  if (pictures) watch(facts, pictures);
  if (!trainer.resumed_from().empty() && !options_.quiet) {
    out << "goes on after step " << trainer.record().steps.size() << ", from " << trainer.resumed_from() << std::endl;
  }
  std::optional<RunLog> log;
  if (!files_.log_dir.empty()) {
    std::optional<LogResumed> resumed;
    if (!options_.resume.empty()) resumed = log_resumed(trainer.record());
    log.emplace(files_.log_dir, log_facts(task_, options_), resumed,
                [&](const std::string& line) { trainer.warn(line); });
    log->follow(trainer);
  }
  // A disk that is full now may not be so when the run ends, and hours of training are worth more than a file on the
  // way.
  const auto save = [&] {
    try {
      if (file) file.write(to_json(report_of(task_, options_, forecast_, trainer, fields)));
    } catch (const Error& error) {
      trainer.warn(concat_text(error.what(), "; the run goes on"));
    }
    if (log) log->write_page();
  };
  trainer.run(save, out);
  const bool logged = !log || log->finish();
  RunReport done = report_of(task_, options_, forecast_, trainer, fields);
  done.file = files_.report;
  print_summary(out, done);
  if (file) file.write(to_json(done));
  return !trainer.record().interrupted && trainer.kept() && !pictures_failed_ && logged;
}

/// The facts of the page that are known before the step has run.
PageFacts Run::page_facts() const {
  PageFacts facts{.model = task_.name,
                  .policy = options_.memory,
                  .device = std::string(to_string(options_.device)),
                  .data = task_.training.name,
                  .parameters = forecast_.parameters,
                  .predicted_peak = forecast_.peak.total};
  if (!files_.page.empty()) {
    facts.policies = policy_forecasts(task_, options_, memory_);
    facts.savings = cheapest_savings(task_, options_, memory_);
  }
  return facts;
}

void Run::watch(PageFacts& facts, const StepPictures& pictures) {
  const auto first = static_cast<std::int64_t>(trainer_->record().steps.size());
  const std::int64_t step = train::step_to_watch(run_length(task_, options_), task_.training.samples, first);
  trainer_->watch(step, [&, step](const memory::StepTrace& trace) {
    facts.batch_size = trainer_->record().steps.back().samples;
    facts.step = step + 1;
    facts.reserved = trainer_->peak().reserved;
    const std::string title = concat_text(task_.name, " under ", options_.memory);
    for (const std::string& failure : pictures.write(trace, title, [&] { return facts; })) {
      trainer_->warn(concat_text(failure, "; the run goes on"));
      pictures_failed_ = true;
    }
  });
}

}  // namespace palimpsest::reports
