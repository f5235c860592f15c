#include "examples/flags/example.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <csignal>
#include <iostream>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/number_text.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/train/images.hpp>
#include <palimpsest/train/interrupt.hpp>

namespace palimpsest::flags {
namespace {

enum ExitStatus { Done = 0, Failure = 1, Usage = 2 };

/// The status of a process that a signal has ended, as shells have it.
int ended_by(int signal) { return 128 + signal; }

int complain(const std::string& program, const std::string& what, ExitStatus status) {
  std::cerr << program << ": " << what << std::endl;
  return status;
}

std::unique_ptr<nn::Optimiser> make_sgd(std::vector<nn::NamedTensor> parameters, const Options& options,
                                        const TrainingDefaults& defaults) {
  const nn::SgdOptions sgd{.learning_rate = options.learning_rate,
                           .momentum = options.momentum,
                           .nesterov = defaults.nesterov && options.momentum > 0,
                           .weight_decay = options.weight_decay,
                           .decay_norm_and_bias = defaults.decay_norm_and_bias};
  return std::make_unique<nn::Sgd>(std::move(parameters), sgd);
}

/// The learning rate over a run of `steps` steps, before the warm-up.
nn::Schedule schedule_of(const Options& options, const TrainingDefaults& defaults, std::int64_t steps) {
  if (options.schedule == "constant") return nn::Schedule::constant(options.learning_rate);
  if (options.schedule == "cosine") return nn::Schedule::cosine(options.learning_rate, steps);
  if (options.schedule == "step") {
    std::vector<std::int64_t> milestones;
    for (const double part : defaults.milestones) {
      const auto step = static_cast<std::int64_t>(std::floor(static_cast<double>(steps) * part + 1e-6));
      milestones.push_back(std::max<std::int64_t>(1, step));
    }
    return nn::Schedule::step(options.learning_rate, std::move(milestones));
  }
  throw ValueError(concat_text("unknown schedule '", options.schedule, "', expected step, cosine or constant"));
}

/// The pictures that a run is trained with, whatever their folder is called now.
std::string shown(const datasets::FolderIndex& pictures) {
  return concat_text(pictures.count(), " pictures of ", pictures.classes.size(), " classes (digest ",
                     pictures.digest().substr(0, 12), ")");
}

/// The shared flags that a run's numbers depend on; see Example::run_options_of() for a model's.
std::vector<train::Setting> settings(const Options& options) {
  std::vector<train::Setting> all = {{"--data", options.folder ? shown(options.folder->training) : options.data},
                                     {"--augment", options.augment ? "on" : "off"},
                                     {"--train-limit", std::to_string(options.train_limit)},
                                     {"--lr", number_text(options.learning_rate)},
                                     {"--momentum", number_text(options.momentum)},
                                     {"--weight-decay", number_text(options.weight_decay)},
                                     {"--schedule", options.schedule},
                                     {"--warmup", std::to_string(options.warmup)}};
  // Runs from before there was this flag go on.
  if (options.label_smoothing != 0) all.push_back({"--label-smoothing", number_text(options.label_smoothing)});
  return all;
}

}  // namespace

Device choose_device(const std::string& name) {
  if (name == "cpu") return Device::Cpu;
  if (cuda_device_count() > 0) return Device::Cuda;
  if (name == "auto") return Device::Cpu;
  throw DeviceError("--device cuda: " + cuda_unavailable_reason());
}

train::Task image_task(std::string model, const MakeModel& make_model, std::int64_t depth, const Options& options,
                       const TrainingDefaults& defaults, const ImageData& data) {
  const DataFacts facts = data_facts(options);
  using Batch = std::span<const Tensor>;
  return {
      .name = std::move(model),
      .make_model = [=](nn::Init init) { return make_model(facts, depth, std::move(init)); },
      .batch = train::image_batch(facts.channels, options.crops * options.image_size, options.image_size),
      .loss =
          train::with_model<nn::Classifier>([smoothing = options.label_smoothing](nn::Classifier& model, Batch batch) {
            return ops::cross_entropy(model(batch[0]), batch[1], {.label_smoothing = smoothing});
          }),
      .make_optimiser = [=](auto parameters) { return make_sgd(std::move(parameters), options, defaults); },
      .frozen = options.freeze,
      .freeze_statistics = options.freeze_norm,
      .schedule = [=](std::int64_t steps) { return schedule_of(options, defaults, steps).with_warmup(options.warmup); },
      .training = data.training,
      .evaluation = data.evaluation,
      .class_scores = train::with_model<nn::Classifier>([crops = options.crops](nn::Classifier& model, Batch batch) {
        return train::crop_scores(model, batch[0], crops);
      }),
      .unit = "images"};
}

train::Options run_options(const Options& options, Device device) {
  return {.device = device,
          .memory = options.memory,
          .rates = options.rates,
          .offload_dir = options.offload_dir,
          .verify = parse_verify(options.verify),
          .batch_size = options.batch_size,
          .accumulate = options.accumulate,
          .epochs = options.epochs,
          .max_steps = options.max_steps,
          .evaluate_every = options.evaluate_every,
          .seed = options.seed,
          .weights = options.weights,
          .weights_except = options.weights_except,
          .save_weights = options.save_weights,
          .checkpoints = options.checkpoints,
          .resume = options.resume,
          .settings = settings(options),
          .quiet = options.quiet,
          .names = {.memory = "--memory ",
                    .batch_size = "--batch-size",
                    .accumulate = "--accumulate",
                    .freeze = "--freeze",
                    .freeze_statistics = "--freeze-norm",
                    .learning_rate = "--lr",
                    .offload_dir = "--offload-dir",
                    .no_evaluation = "--no-eval",
                    .grid = "--grid",
                    .seed = "--seed",
                    .precision = "--precision",
                    .resume = "--resume",
                    .weights_except = "--except",
                    .length = "--epochs and --max-steps"}};
}

Example::Value Example::value_of(const std::vector<std::int64_t>& values) {
  std::vector<std::string> texts;
  for (const std::int64_t value : values) texts.push_back(std::to_string(value));
  return texts.empty() ? Value() : Value(join(texts, ","));
}

Example::Value Example::value_of(const std::string& text) {
  if (text.empty()) return {};
  std::int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end ? Value(number) : Value(text);
}

int Example::run(int argc, const char* const* argv) {
  const std::string& program = command_line_.name();
  // A file that may grow no further (ulimit -f) is then an error with the file's name, not a silent end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    if (!command_line_.parse(argc, argv)) return Done;
    blame_flags(when_parsed);
    open_pictures();
    blame_flags([&] { data_facts(options()); });  // before its files are looked for
    const Device device = choose_device(options().device);
    if (options().plan) return plan(device);
    return options().evaluate_alone ? evaluate(device) : train(device);
  } catch (const UsageError& error) {
    return complain(program, error.what(), Usage);
  } catch (const train::ResumeError& error) {
    return complain(program, error.what(), Usage);
  } catch (const RangeError& error) {
    return complain(program, concat_text(error.what(), "; try a smaller --grid or a smaller --lr"), Failure);
  } catch (const std::exception& error) {
    return complain(program, error.what(), Failure);
  }
}

/// The folder that --data names, if it names one; says what of it is passed over.
void Example::open_pictures() {
  Options& given = options();
  if (!given.takes_folders || is_known_set(given.data)) {
    if (given.skip_broken) throw UsageError("--skip-broken is for a folder of pictures");
    if (given.crops != 1) throw UsageError("--crops is for a folder of pictures");
    return;
  }
  if (this->given("--classes")) throw UsageError("--classes is for synthetic images: a folder has its own");
  given.folder = open_folder(given);
  const auto& [training, test] = *given.folder;
  given.classes = static_cast<std::int64_t>(training.classes.size());
  if (given.quiet) return;
  const auto say = [&](const std::string& text) { std::cerr << command_line_.name() << ": " << text << std::endl; };
  for (const std::string& note : training.notes) say(note);
  if (test.notes != training.notes) {  // a folder without halves has one list
    for (const std::string& note : test.notes) say(note);
  }
  say(concat_text(given.data, ": ", training.classes.size(), " classes, ", training.count(), " pictures to train and ",
                  test.count(), " to evaluate with"));
}

int Example::plan(Device device) const {
  const ImageData data = expected_data(command_line_.options, defaults);
  const train::Options how = run_options_of(device);
  reports::PlanOptions what{.budget = command_line_.options.budget, .depths = depths()};
  if (what.depths) {
    what.depths->task = [&](std::int64_t depth) {
      return image_task(model_name(), make_model, depth, command_line_.options, defaults, data);
    };
  }
  blame_flags([&] { reports::print_plan(std::cout, task(data), how, what); });
  return Done;
}

/// Returns the exit status. Failures that can come early come before anything takes long: files and folders come first,
/// then the data, then a plan, which takes seconds for a deep net.
int Example::train(Device device) const {
  const Options& given = command_line_.options;
  set_thread_count(given.threads);
  const train::Options how = run_options_of(device);
  blame_flags([&] { reports::check(how, given.files); });
  const train::Task what = task(load_data(given, defaults));
  reports::Run run = blame_flags([&] { return reports::Run(what, how, given.files); });
  if (!given.quiet) std::cout << run.announcement() << std::flush;
  explain(device);
  const bool whole = run.train(std::cout, fields());
  if (run.record().interrupted) return ended_by(run.record().signal);
  return whole ? Done : Failure;
}

/// Returns the exit status.
int Example::evaluate(Device device) const {
  const Options& given = command_line_.options;
  set_thread_count(given.threads);
  const train::Options how = run_options_of(device);
  const reports::EvaluationFiles files{.report = given.files.report, .predictions = given.predictions};
  blame_flags([&] { reports::check(how, files); });
  const train::Task what = task(load_data(given, defaults));
  if (given.weights.empty() && !given.quiet) {
    std::cerr << command_line_.name() << ": without --weights these are the weights that a run begins with"
              << std::endl;
  }
  explain(device);
  const train::InterruptGuard guard;
  const bool whole = blame_flags([&] { return reports::evaluate(std::cout, what, how, files, fields()); });
  return whole ? Done : ended_by(train::interrupting_signal());
}

train::Task Example::task(const ImageData& data) const {
  const std::optional<reports::Depths> flag = depths();
  train::Task task =
      image_task(model_name(), make_model, flag ? flag->given : 0, command_line_.options, defaults, data);
  task.metadata = metadata();
  return task;
}

train::Options Example::run_options_of(Device device) const {
  train::Options how = run_options(command_line_.options, device);
  how.names.program = command_line_.name();
  how.products.precision = precision(device);
  for (const auto& [name, value] : reported_) how.settings.push_back({"--" + name, text_of(value())});
  return how;
}

std::string Example::text_of(const Value& value) {
  return std::visit(
      []<class T>(const T& held) -> std::string {
        if constexpr (std::is_same_v<T, std::monostate>) {
          return "none";
        } else if constexpr (std::is_same_v<T, bool>) {
          return held ? "on" : "off";
        } else if constexpr (std::is_same_v<T, std::string>) {
          return held;
        } else {
          return number_text(held);
        }
      },
      value);
}

std::vector<reports::Field> Example::fields() const {
  const Options& given = command_line_.options;
  std::vector<reports::Field> fields = {{"precision", given.precision},
                                        {"learning_rate", given.learning_rate},
                                        {"schedule", given.schedule},
                                        {"augment", given.augment}};
  if (!given.weights.empty()) fields.push_back({"weights", given.weights});
  if (given.accumulate > 1) fields.push_back({"accumulate", given.accumulate});
  if (given.crops != 1) fields.push_back({"crops", given.crops});
  if (given.label_smoothing > 0) fields.push_back({"label_smoothing", given.label_smoothing});
  if (!given.freeze.empty()) fields.push_back({"freeze", join(given.freeze)});
  if (given.freeze_norm) fields.push_back({"freeze_norm", true});
  for (const auto& [name, value] : reported_) fields.push_back({name, value()});
  return fields;
}

ops::Precision Example::precision(Device device) const {
  if (command_line_.options.precision != "tf32") return ops::Precision::Float32;
  if (device == Device::Cuda) return ops::Precision::Tf32;
  throw UsageError(concat_text("--precision tf32 is for cuda, and this run is on the ", device));
}

/// Why "auto" has not taken a device that this build could use.
void Example::explain(Device device) const {
  const Options& given = command_line_.options;
  if (!build::has_cuda || given.quiet || given.device != "auto" || device == Device::Cuda) return;
  std::cerr << command_line_.name() << ": no CUDA device (" << cuda_unavailable_reason() << "), computing on the CPU"
            << std::endl;
}

}  // namespace palimpsest::flags
