#include "examples/harness/example.hpp"

#include <iostream>

#include "core/cuda_runtime.hpp"
#include "examples/harness/interrupt.hpp"
#include "examples/harness/report_file.hpp"
#include "examples/harness/trainer.hpp"
#include "memory/policies.hpp"

namespace palimpsest::harness {
namespace {

enum ExitStatus { Done = 0, Failure = 1, Usage = 2, Interrupted = 130 };

int complain(const std::string& program, const char* what, ExitStatus status) {
  std::cerr << program << ": " << what << std::endl;
  return status;
}

}  // namespace

Device choose_device(const std::string& name) {
  if (name != "cuda") return Device::Cpu;  // "auto", too: the operations have kernels for the CPU alone
  if (cuda_device_count() == 0) throw DeviceError("--device cuda: " + cuda_unavailable_reason());
  return Device::Cuda;
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
  const Forecast forecast = dry_run(make_model, options(), recipe);
  const Device device = choose_device(options().device);
  const ReportFile file(options().report);
  announce(forecast);
  set_thread_count(options().threads);
  const InterruptGuard interrupt_guard;

  const ImageData data = load_data(options(), recipe);
  const auto model = make_model(data_facts(options().data), nn::Init(options().seed, device));
  model->set_memory(memory::parse(options().memory));
  Trainer trainer(*model, data, options(), recipe, device);
  const auto report = [&] {
    return Report{.model = model_name(),
                  .device = std::string(to_string(device)),
                  .options = options(),
                  .forecast = forecast,
                  .record = trainer.record(),
                  .peak = trainer.peak(),
                  .resident = peak_resident_bytes(),
                  .state_digest = model->state_digest(),
                  .model_flags = model_flags()};
  };
  const auto save = [&](const Report& so_far) {
    if (file) file.write(to_json(so_far).dump(1) + "\n");
  };
  {
    Progress progress(run_length(options()), options().quiet);
    trainer.run(progress, [&] { save(report()); });
  }
  const Report done = report();
  print_summary(std::cout, done);
  save(done);
  return !trainer.record().interrupted;
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
