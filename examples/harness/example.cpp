#include "examples/harness/example.hpp"

#include <iostream>

#include "core/cuda_runtime.hpp"
#include "examples/harness/interrupt.hpp"
#include "examples/harness/report_file.hpp"
#include "examples/harness/trainer.hpp"
#include "memory/offload.hpp"
#include "memory/policies.hpp"
#include "ops/gemm.hpp"

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

Device choose_device(const std::string& name) {
  if (name == "cpu") return Device::Cpu;
  if (cuda_device_count() > 0) return Device::Cuda;
  if (name == "auto") return Device::Cpu;
  throw DeviceError("--device cuda: " + cuda_unavailable_reason());
}

int Example::run(int argc, const char* const* argv) {
  const std::string& program = command_line_.name();
  try {
    if (!command_line_.parse(argc, argv)) return Done;
    return train() ? Done : Interrupted;
  } catch (const UsageError& error) {
    return complain(program, error.what(), Usage);
  } catch (const std::exception& error) {
    return complain(program, error.what(), Failure);
  }
}

/// False if it was interrupted. What can go wrong early does so before anything takes long.
bool Example::train() {
  const Device device = choose_device(options().device);
  apply_precision(device);
  const Forecast forecast = dry_run(make_model, options(), defaults, device);
  const ReportFile file(options().report);
  prepare_offload(device);
  announce(forecast);
  set_thread_count(options().threads);
  const InterruptGuard interrupt_guard;

  const ImageData data = load_data(options(), defaults);
  const auto model = make_model(data_facts(options().data), nn::Init(options().seed, device));
  model->set_memory(memory::parse(options().memory));
  Trainer trainer(*model, data, options(), defaults, device);
  const auto report = [&] {
    return Report{.model = model_name(),
                  .device = std::string(to_string(device)),
                  .card = card_of(device),
                  .options = options(),
                  .forecast = forecast,
                  .record = trainer.record(),
                  .peak = trainer.peak(),
                  .offloaded = memory::offload_stats(device),
                  .resident = peak_resident_bytes(),
                  .state_digest = model->state_digest(),
                  .model_flags = model_flags()};
  };
  const auto save = [&](const Report& so_far) {
    if (file) file.write(to_json(so_far).dump(1) + "\n");
  };
  explain(device);
  {
    Progress progress(run_length(options()), options().quiet);
    trainer.run(progress, [&] { save(report()); });
  }
  const Report done = report();
  print_summary(std::cout, done);
  save(done);
  return !trainer.record().interrupted;
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
  if (device != Device::Cpu || (given.offload_dir.empty() && given.memory != "offload")) return;
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

void Example::announce(const Forecast& forecast) const {
  if (command_line_.options.quiet) return;
  std::cout << model_name() << " under " << command_line_.options.memory << " will need "
            << format_mebibytes(forecast.peak.total) << " at its peak" << std::endl;
}

}  // namespace palimpsest::harness
