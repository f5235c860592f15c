#include "examples/harness/example.hpp"

#include <csignal>
#include <iostream>

#include <palimpsest/core/device.hpp>
#include <palimpsest/memory/offload.hpp>
#include <palimpsest/ops/gemm.hpp>
#include "examples/harness/blame_flags.hpp"
#include "examples/harness/interrupt.hpp"
#include "examples/harness/memory_advice.hpp"
#include "examples/harness/policy_forecasts.hpp"
#include "examples/harness/report_file.hpp"
#include "examples/harness/step_pictures.hpp"
#include "examples/harness/trainer.hpp"

namespace palimpsest::harness {
namespace {

enum ExitStatus { Done = 0, Failure = 1, Usage = 2, Interrupted = 130 };

int complain(const std::string& program, const char* what, ExitStatus status) {
  std::cerr << program << ": " << what << std::endl;
  return status;
}

std::optional<Card> card_of(Device device) {
  if (device != Device::Cuda) return std::nullopt;
  const DeviceMemory memory = cuda_device_memory();
  return Card{cuda_device_name(), memory.total - memory.free};
}

}  // namespace

/// What a run writes and reads.
struct Example::Opened {
  ReportFile report;
  StepPictures pictures;
  ImageData data;
};

Device choose_device(const std::string& name) {
  if (name == "cpu") return Device::Cpu;
  if (cuda_device_count() > 0) return Device::Cuda;
  if (name == "auto") return Device::Cpu;
  throw DeviceError("--device cuda: " + cuda_unavailable_reason());
}

int Example::run(int argc, const char* const* argv) {
  const std::string& program = command_line_.name();
  // A file that may grow no further (ulimit -f) is then an error with the file's name, not a silent end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    if (!command_line_.parse(argc, argv)) return Done;
    if (options().plan) {
      plan(choose_device(options().device));
      return Done;
    }
    return train();
  } catch (const UsageError& error) {
    return complain(program, error.what(), Usage);
  } catch (const std::exception& error) {
    return complain(program, error.what(), Failure);
  }
}

/// Returns the exit status. What can go wrong early does so before anything takes long: files and folders come first,
/// since a plan for a deep net takes seconds.
int Example::train() {
  const Device device = choose_device(options().device);
  apply_precision(device);
  rates_for(options(), device);  // a table that cannot be read is found out now, not when the page wants it
  set_thread_count(options().threads);
  const Opened opened = open(device);
  const MemoryChoice memory = blame_flags([&] { return choose_memory(make_model, options(), defaults, device); });
  const Forecast forecast = dry_run(make_model, memory, options(), defaults, device);
  const std::size_t there = device_bytes(device);
  if (forecast.peak.total > there) {
    throw OutOfMemory(concat_text("a step under ", options().memory, " needs ", format_mebibytes(forecast.peak.total),
                                  ", ", device, " has ", format_mebibytes(there),
                                  memory_advice(make_model, options(), defaults, device, there)));
  }
  if (forecast.evaluation.total > there) {
    throw OutOfMemory(concat_text("an evaluation needs ", format_mebibytes(forecast.evaluation.total), ", ", device,
                                  " has ", format_mebibytes(there),
                                  evaluation_advice(make_model, options(), defaults, device, there)));
  }
  try {
    return train(device, opened, memory, forecast);
  } catch (const EvaluationOutOfMemory& error) {
    const std::size_t limit = allocator(device).limit();
    throw OutOfMemory(error.what() + evaluation_advice(make_model, options(), defaults, device, limit));
  } catch (const OutOfMemory& error) {
    const std::size_t limit = allocator(device).limit();
    throw OutOfMemory(error.what() + memory_advice(make_model, options(), defaults, device, limit));
  }
}

Example::Opened Example::open(Device device) const {
  const Options& given = command_line_.options;
  Opened opened{ReportFile(given.report), StepPictures(given), {}};
  prepare_offload(device);
  opened.data = load_data(given, defaults);  // last: this is what takes a moment
  return opened;
}

/// What the page says of a step before it has run.
MemoryReport Example::foretell(Device device, const MemoryChoice& memory, const Forecast& forecast) const {
  const Options& given = command_line_.options;
  MemoryReport page{.model = model_name(),
                    .policy = given.memory,
                    .device = std::string(to_string(device)),
                    .data = given.data,
                    .parameters = forecast.parameters,
                    .predicted_peak = forecast.peak.total,
                    .policies = {},
                    .savings = {}};
  if (!given.memory_report.empty()) {
    page.policies = policy_forecasts(make_model, memory, given, defaults, device);
    page.savings = cheapest_savings(make_model, memory, given, defaults, device);
  }
  return page;
}

int Example::train(Device device, const Opened& opened, const MemoryChoice& memory, const Forecast& forecast) {
  const ReportFile& file = opened.report;
  const StepPictures& pictures = opened.pictures;
  const ImageData& data = opened.data;
  announce(memory, forecast);
  // Before the first step, since the training would not heed Ctrl-C meanwhile: a plan for a deep net takes seconds.
  MemoryReport page = foretell(device, memory, forecast);
  const InterruptGuard interrupt_guard;

  const auto model = make_model(data_facts(options().data), nn::Init(options().seed, device));
  memory.apply(*model);
  if (memory.budget != 0) allocator(device).set_limit(memory.budget);
  Trainer trainer(*model, data, options(), defaults, device);
  const auto report = [&] {
    return Report{.model = model_name(),
                  .device = std::string(to_string(device)),
                  .card = card_of(device),
                  .options = options(),
                  .forecast = forecast,
                  .record = trainer.record(),
                  .peak = trainer.peak(),
                  .evaluation_peak = trainer.evaluation_peak(),
                  .offloaded = memory::offload_stats(device),
                  .resident = peak_resident_bytes(),
                  .state_digest = model->state_digest(),
                  .model_flags = model_flags()};
  };
  const auto save = [&](const Report& so_far) {
    if (file) file.write(to_json(so_far).dump(1) + "\n");
  };
  std::optional<Progress> progress(std::in_place, run_length(options()), options().quiet);
  // A disk that is full now may not be so when the run ends, and hours of training are worth more than a file on the
  // way.
  const auto warn = [&](const std::string& what) {
    progress->warn(concat_text(command_line_.name(), ": ", what, "; the run goes on"));
  };
  bool pictures_failed = false;
  if (pictures) {
    const std::int64_t watched = step_to_record(run_length(options()), data.training.count);
    trainer.watch(watched, [&, watched](const memory::StepTrace& step) {
      page.batch_size = trainer.record().steps.back().images;
      page.step = watched + 1;
      page.reserved = trainer.peak().reserved;
      const std::string title = concat_text(model_name(), " under ", options().memory);
      for (const std::string& failure : pictures.write(step, title, [&] { return page; })) {
        warn(failure);
        pictures_failed = true;
      }
    });
  }
  explain(device);
  trainer.run(*progress, [&] {
    try {
      save(report());
    } catch (const Error& error) {
      warn(error.what());
    }
  });
  progress.reset();  // its line on the terminal goes before the summary comes
  const Report done = report();
  print_summary(std::cout, done);
  save(done);
  if (trainer.record().interrupted) return Interrupted;
  return pictures_failed ? Failure : Done;
}

void Example::plan(Device device) const {
  const Options& given = command_line_.options;
  print_plan(std::cout, model_name(), make_model, given, defaults, device, depth_flag());
}

void Example::apply_precision(Device device) const {
  const bool tf32 = command_line_.options.precision == "tf32";
  if (tf32 && device != Device::Cuda) {
    throw UsageError(concat_text("--precision tf32 is for cuda, and this run is on the ", device));
  }
  set_precision(tf32 ? Precision::Tf32 : Precision::Float32);
}

/// A folder that cannot hold the file is found out before anything takes long.
void Example::prepare_offload(Device device) const {
  const Options& given = command_line_.options;
  if (device != Device::Cpu || (given.offload_dir.empty() && given.memory.find("offload") == std::string::npos)) return;
  memory::set_offload_directory(given.offload_dir.empty() ? memory::offload_directory() : given.offload_dir);
}

/// Why "auto" has not taken a device that this build could use.
void Example::explain(Device device) const {
  const Options& given = command_line_.options;
  if (!build::has_cuda || given.quiet || given.device != "auto" || device == Device::Cuda) return;
  std::cerr << command_line_.name() << ": no CUDA device (" << cuda_unavailable_reason() << "), computing on the CPU"
            << std::endl;
}

Json Example::model_flags() const {
  Json flags = Json::object();
  for (const auto& [name, value] : reported_) flags[name] = value();
  return flags;
}

void Example::announce(const MemoryChoice& memory, const Forecast& forecast) const {
  if (command_line_.options.quiet) return;
  std::cout << model_name() << " under " << command_line_.options.memory << " will need "
            << format_mebibytes(forecast.peak.total) << " at its peak" << std::endl;
  if (memory.planned != nullptr) std::cout << describe(memory.recipes) << std::endl;
}

}  // namespace palimpsest::harness
